"""The model card: what a .nemo is, learnt from, scores and cannot do, in Markdown with Hugging Face's header.

Every figure comes from a file that another command wrote: the .nemo itself, the corpus audit, scores.json,
the run's record, the export's contract. What no file says is written as not known.
"""

import importlib.resources
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import sentencepiece
import yaml

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError
from ko_asr.evaluation.scorecard import METRIC_NAMES
from ko_asr.files import atomic_write
from ko_asr.models.nemo_file import read_config, tokenizer_bytes
from ko_asr.models.weights import open_weights
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names
from ko_asr.runtime.tensors import ENCODER
from ko_asr.text.feasibility import token_statistics

NOT_KNOWN = "not known"
_RESULT_FOLDERS = ("results", "evaluations")  # where the demo and the documentation put scores
_SHOWN_METRICS = ("cer", "cer_no_spaces", "wer", "swer", "onset", "nucleus", "coda")
_MOST_ROWS = 12  # of one slice; of more values (speakers, say) the spread is told
_BUFFERS = re.compile(r"^preprocessor\.|\.(running_mean|running_var|num_batches_tracked|pe)$")


def write_model_card(
    nemo: Path,
    out: Path,
    scores: Sequence[Path] = (),
    audit: Path | None = None,
    repository: Path | None = None,
) -> None:
    """Write the card of ``nemo`` to ``out``.

    ``scores`` are folders of recipes/evaluate.py; without any, those under results/ and evaluations/ that
    carry this model's SHA-256. ``audit`` is a corpus's audit.json; by default the one beside the training
    manifest. ``repository`` is a Triton repository with this model. Raises UserError for a file that is
    named and missing, broken, or about another model.
    """
    digest = sha256(nemo)
    cards = [_given_scores(path, digest) for path in scores] or list(_found_scores(digest))
    facts = collect(nemo, digest, cards, _read_audit(nemo, audit), _contract(repository, digest))
    with atomic_write(out) as stream:
        stream.write(render(facts))


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: write it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: write it again")
    return found


def _found_json(path: Path) -> dict:
    """The content of a file that nobody named; empty when it is missing or broken."""
    try:
        return _read_json(path)
    except (UserError, OSError):
        return {}


def _given_scores(path: Path, digest: str) -> dict:
    card = _read_json(path / "scores.json" if path.is_dir() else path)
    if "metrics" not in card:
        raise UserError(f"{path} holds no scores: give a folder that recipes/evaluate.py wrote")
    if card.get("model", {}).get("sha256") != digest:
        raise UserError(f"the scores in {path} are of another model: evaluate this one")
    return card


def _found_scores(digest: str) -> Iterator[dict]:
    """Scores of this very model below the folders of results; files of others are passed over."""
    for folder in _RESULT_FOLDERS:
        for path in sorted(Path(folder).rglob("scores.json")):
            try:
                yield _given_scores(path, digest)
            except UserError:
                continue


def train_manifest(config: dict) -> Path | None:
    """The manifest that the model says it was trained on, where it is still there."""
    path = (config.get("train_ds") or {}).get("manifest_filepath")
    return Path(path) if isinstance(path, str) and Path(path).is_file() else None


def _read_audit(nemo: Path, given: Path | None) -> dict | None:
    if given is None:
        manifest = train_manifest(read_config(nemo))
        audit = _found_json(manifest.parent / "audit.json") if manifest else {}
        return audit if {"corpus", "splits"} <= audit.keys() else None
    audit = _read_json(given)
    if not {"corpus", "splits"} <= audit.keys():
        raise UserError(f"{given} is no audit: give the audit.json of a recipes/prepare_*.py script")
    return audit


def _contract(repository: Path | None, digest: str) -> dict | None:
    """The export's figures: seconds it takes, difference from NeMo, bytes of the graph."""
    if repository is None:
        return None
    contract = _read_json(repository / ENCODER / "1" / file_names.CONTRACT)
    if contract.get("model_sha256") != digest:
        raise UserError(f"{repository} serves another model: export this one with export/to_triton.py")
    graph = repository / ENCODER / "1" / file_names.GRAPH
    rate = contract.get("sample_rate")
    seconds = {
        name: contract[f"{name}_samples"] / rate if rate and f"{name}_samples" in contract else None
        for name in ("min", "max")
    }
    return {
        "seconds": seconds,
        "difference": max(contract.get("parity", {}).values(), default=None),
        "onnx_bytes": graph.stat().st_size if graph.is_file() else None,
    }


def collect(
    nemo: Path, digest: str, scores: list[dict], audit: dict | None, contract: dict | None
) -> dict[str, Any]:
    """Everything the template shows; None stands for what is not known."""
    config = read_config(nemo)
    manifest = train_manifest(config)
    return {
        "name": nemo.stem,
        "file": nemo.name,
        "sha256": digest,
        "megabytes": nemo.stat().st_size / 1e6,
        "header": header(nemo.stem, scores, bool(audit and audit["corpus"].get("synthetic"))),
        "synthetic": audit["corpus"].get("synthetic") if audit else None,
        "audit": audit,
        "speakers": _speakers(manifest),
        "parameters": parameters(nemo),
        "architecture": _architecture(config),
        "tokenizer": _tokenizer(nemo, config),
        "feasibility": _feasibility(nemo, config, manifest),
        "train_ds": config.get("train_ds") or {},
        "made_from": {"merged": [], "averaged": [], "finetuned": None} | (config.get("made_from") or {}),
        "scores": [_shown_scores(card) for card in scores],
        "contract": contract,
        "run": _run(nemo),
    }


def header(name: str, scores: list[dict], synthetic: bool) -> str:
    """The YAML front matter, with the scores as a model index."""
    results = []
    for card in scores:
        row = card["headline"]
        results.append(
            {
                "task": {"type": "automatic-speech-recognition"},
                "dataset": {
                    "name": f"{_scored_corpus(card).get('title', NOT_KNOWN)}, {_set_name(card)}",
                    "type": _set_name(card),
                },
                "metrics": [
                    {
                        "type": "cer",
                        "name": f"{METRIC_NAMES[row['metric']]}, % (rules: {card['profile']})",
                        "value": round(100 * row["rate"], 2) if row["rate"] is not None else None,
                    }
                ],
            }
        )
    front: dict[str, Any] = {
        "language": ["ko"],
        "library_name": "nemo",
        "pipeline_tag": "automatic-speech-recognition",
        "license": "unknown",  # of the weights: nobody has said, and the data's licence is in the text
        "tags": ["speech", "CTC", "FastConformer", "NeMo", "Korean"]
        + (["synthetic-speech"] if synthetic else []),
    }
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    return yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip()


def _set_name(card: dict) -> str:
    return Path(card.get("manifest", {}).get("path", NOT_KNOWN)).stem


def _scored_corpus(card: dict) -> dict:
    """The corpus in the audit beside the scored manifest; empty without one."""
    manifest = card.get("manifest", {}).get("path")
    return _found_json(Path(manifest).parent / "audit.json").get("corpus", {}) if manifest else {}


def parameters(nemo: Path) -> int:
    """Weights that were trained; batch norm's statistics and the log-mel filters are buffers."""
    with open_weights(nemo) as state:
        return sum(tensor.numel() for name, tensor in state.items() if not _BUFFERS.search(name))


def _architecture(config: dict) -> dict[str, Any]:
    encoder, preprocessor = config.get("encoder") or {}, config.get("preprocessor") or {}
    contexts = encoder.get("att_context_size") or [-1, -1]
    return {
        "class": str(config.get("target", NOT_KNOWN)).rsplit(".", 1)[-1],
        "layers": encoder.get("n_layers"),
        "width": encoder.get("d_model"),
        "subsampling": encoder.get("subsampling_factor"),
        "streaming": encoder.get("att_context_style") == "chunked_limited",
        "contexts": contexts,
        "sample_rate": preprocessor.get("sample_rate"),
        "frame_ms": round(1000 * (preprocessor.get("window_stride") or 0.01))
        * (encoder.get("subsampling_factor") or 1),
        "table_frames": encoder.get("pos_emb_max_len"),
    }


def _tokenizer(nemo: Path, config: dict) -> dict[str, Any] | None:
    """Type and size; the type is in the tokenizer's folder, if that still holds this very model."""
    content = tokenizer_bytes(nemo)
    if content is None:
        return None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size()
    folder = Path((config.get("tokenizer") or {}).get("dir") or "/nonexistent")
    model = folder / "tokenizer.model"
    ours = model.is_file() and model.read_bytes() == content
    return {
        "type": _found_json(folder / "tokenizer.json").get("type") if ours else None,
        "pieces": pieces,
    }


def _speakers(manifest: Path | None) -> int | None:
    try:
        entries = read_manifest(manifest) if manifest else ()
        speakers = {entry.get("speaker", entry.get("speaker_id")) for entry in entries}
    except UserError:
        return None
    return len(speakers - {None}) or None


def _feasibility(nemo: Path, config: dict, manifest: Path | None) -> dict[str, Any] | None:
    """Fit of the training text to the encoder's frames, counted again with the model's own tokenizer."""
    content, encoder = tokenizer_bytes(nemo), config.get("encoder") or {}
    factor = encoder.get("subsampling_factor")
    if manifest is None or content is None or factor is None:
        return None
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    causal = bool(encoder.get("causal_downsampling"))
    try:
        statistics = token_statistics(read_manifest(manifest), processor, (factor,), causal)
    except (UserError, KeyError):  # another manifest may lie there by now
        return None
    return {
        "share": statistics.infeasible_share(factor),
        "tokens_per_second": statistics.tokens_per_second,
        "unknown": statistics.unknown_rate,
        "utterances": statistics.utterances,
        "hours": statistics.seconds / 3600,
    }


def _shown_scores(card: dict) -> dict[str, Any]:
    return {
        "set": _set_name(card),
        "corpus": _scored_corpus(card).get("title"),
        "synthetic": _scored_corpus(card).get("synthetic", False),
        "profile": card["profile"],
        "source": card["rules"]["source"],
        "utterances": card["utterances"],
        "hours": card["audio_seconds"] / 3600,
        "rows": [(METRIC_NAMES[name], card["metrics"][name]) for name in _SHOWN_METRICS],
        "headline": METRIC_NAMES[card["headline"]["metric"]],
        "rtfx": card.get("rtfx"),
        "device": card.get("device"),
        "machine": card.get("machine"),
        "command": card.get("command"),
        "slices": {name: _slice(rows) for name, rows in card["slices"].items() if len(rows) > 1},
    }


def _slice(rows: list[dict]) -> dict[str, Any]:
    """The rows of a slice, or best, median and worst where they are many."""
    if len(rows) <= _MOST_ROWS:
        return {"groups": len(rows), "rows": rows}
    ranked = sorted((row for row in rows if row["cer"] is not None), key=lambda row: row["cer"])
    shown = [ranked[0], ranked[len(ranked) // 2], ranked[-1]] if ranked else []
    return {"groups": len(rows), "rows": shown}


def _run(nemo: Path) -> dict | None:
    """The record that training leaves in experiments/NAME/run, and its resolved configuration."""
    folder = nemo.resolve().parents[1] / "run"
    config = folder / "config.yaml"
    starts = _found_json(folder / "run.json").get("starts")
    if not starts:
        return None
    text = config.read_text(encoding="utf-8").strip() if config.is_file() else None
    return {"starts": len(starts), "last": starts[-1], "config": text}


def _number(value: float | None, form: str) -> str:
    return NOT_KNOWN if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def render(facts: dict[str, Any]) -> str:
    """The card as Markdown."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "known": lambda value: NOT_KNOWN if value in (None, "") else value,
        # A pipe would end the cell of a table.
        "cell": lambda value: str(value).replace("|", "\\|").replace("\n", " "),
    }
    source = importlib.resources.files("ko_asr.evaluation") / "model_card.md.j2"
    text = environment.from_string(source.read_text(encoding="utf-8")).render(facts)
    return re.sub(r"\n{3,}", "\n\n", text)
