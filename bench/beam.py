"""Measure the cost of the streaming beam search and its worth:

    python bench/beam.py --work DIR [--encoder REPOSITORY] [--out bench/results/beam.json]

DIR is the work folder of `make demo` (the repository itself, or recipes/demo.py --work): its trained model,
its evaluation sets (synthetic speech) and its training text, from which a language model is made. Cost is CPU
time of one thread for an audio second, decoders and encoder in turn in each round, the best of rounds: our
search, flashlight-text with 8 and with 32 tokens a frame (beam 32, the same KenLM), and the size-s encoder
(8x, random weights) on ONNX Runtime, taken from --encoder or made here. Worth is CER and the recall of
keywords, which are the nouns of the demo's grammar, up to 100.
"""

import argparse
import functools
import importlib.resources
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.evaluation.metrics import score
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.beam import BeamDecoder
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.keywords import MOST_KEYWORDS, Keyword
from ko_asr.runtime.prefix_search import BeamOptions
from ko_asr.text.language_model import ARPA, BINARY, LN10, LanguageModel, symbol

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("eval_clean", "eval_other")
ALPHA, BETA = 0.5, 0.5
CHUNK = 14  # frames a call, as a stream of 560 ms at 4x
NOUNS = ("person", "goal", "food", "drink", "thing", "animal")
ROUNDS = 3
Frames = tuple[np.ndarray, np.ndarray, np.ndarray]  # log-probabilities [T, V + 1]; the best 8: ids, scores


def keywords() -> list[Keyword]:
    source = importlib.resources.files("ko_asr") / "demo_grammar.yaml"
    slots = yaml.safe_load(source.read_text(encoding="utf-8"))["slots"]
    words = dict.fromkeys(word for slot in NOUNS for word in slots[slot] if len(word) > 1)
    return [Keyword(word) for word in list(words)[:MOST_KEYWORDS]]


def ranked(log_probs: np.ndarray, width: int = 8) -> Frames:
    ids = np.argsort(-log_probs, 1, kind="stable")[:, :width]
    return log_probs, ids.astype(np.int32), np.take_along_axis(log_probs, ids, 1)


def frames_of(model: Any, entries: Sequence[dict]) -> list[Frames]:
    from ko_asr.evaluation.beam_batch import frame_log_probs

    found: dict[int, Frames] = {}
    for group, batch, lengths in frame_log_probs(model, entries, 16, 600.0):
        for k, rows, length in zip(group, batch.float().numpy(), lengths.tolist(), strict=True):
            found[k] = ranked(np.ascontiguousarray(rows[:length]))
    return [found[k] for k in range(len(entries))]


def flashlight(folder: Path, size: int, tokens: int) -> Callable[[Frames], list[int]]:
    """Run flashlight-text's lexicon-free decoder with the same language model, without a score a token."""
    from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    dictionary = Dictionary()
    for token in range(size):
        dictionary.add_entry(symbol(token), token)
    path = folder / BINARY if (folder / BINARY).is_file() else folder / ARPA
    language_model = KenLM(str(path), dictionary)
    options = LexiconFreeDecoderOptions(32, tokens, 25.0, ALPHA * LN10, 0.0, False, CriterionType.CTC)
    decoder = LexiconFreeDecoder(options, language_model, -1, size, [])

    def decode(frames: Frames) -> list[int]:
        log_probs = frames[0]
        best = decoder.decode(log_probs.ctypes.data, *log_probs.shape)[0].tokens
        kept = [token for before, token in zip([-1, *best], best, strict=False) if token != before]
        return [token for token in kept if 0 <= token < size]

    return decode


def streamed(make: Callable[[], Any], frames: Frames) -> str:
    decoder = make()
    for start in range(0, len(frames[1]), CHUNK):
        decoder.accept(frames[1][start : start + CHUNK], frames[2][start : start + CHUNK])
    return decoder.finish()[-1].text


def random_encoder(folder: Path) -> Path:
    print("making the size-s encoder (about a minute; --encoder takes one that is there)", flush=True)
    model = folder / "s.nemo"
    for command in (
        ["bench/random_model.py", "--size", "s", "--out", model],
        ["export/to_triton.py", "--model", model, "--repository", folder / "repository"],
    ):
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, encoding="utf-8"
        )
        if done.returncode:
            raise UserError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return folder / "repository"


def encoder_run(repository: Path, seconds: float = 5.0) -> tuple[Callable[[], object], float]:
    """Return one run of the encoder on one thread, and the audio seconds that it takes in."""
    import onnxruntime

    contract = Contract.load(repository / tensors.ENCODER / "1")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = repository / tensors.ENCODER / "1" / file_names.GRAPH
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    frames = int(seconds * contract.sample_rate) // contract.hop
    features = np.random.default_rng(0).standard_normal((1, contract.mels, frames)).astype(np.float32)
    feed = {tensors.FEATURES: features, tensors.LENGTH: np.full((1, 1), frames, np.int64)}
    return functools.partial(session.run, [tensors.TOKEN_IDS], feed), seconds


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def costs(
    systems: dict[str, Callable[[Frames], object]], clips: Sequence[Frames], audio: float, encoder: Path
) -> dict:
    """Measure CPU ms for an audio second of every system and of the encoder, best of the rounds."""
    run, seconds = encoder_run(encoder)
    run()
    best = dict.fromkeys(["encoder", *systems], float("inf"))
    for _ in range(ROUNDS):
        best["encoder"] = min(best["encoder"], min(cpu_seconds(run) / seconds for _ in range(10)))
        for name, system in systems.items():
            best[name] = min(best[name], cpu_seconds(lambda decode=system: [*map(decode, clips)]) / audio)
    return {name: {"ms_per_audio_second": 1000 * value, "rtfx": 1 / value} for name, value in best.items()}


def worth(texts: Sequence[str], references: Sequence[str], words: Sequence[Keyword]) -> dict[str, float]:
    """Compute CER, WER, and how many of the keywords' occurrences were recognised, rightly or wrongly."""
    pairs = [
        (r.count(w.text), t.count(w.text)) for r, t in zip(references, texts, strict=True) for w in words
    ]
    counts = score(references, texts)
    return {
        "cer": counts.total("cer").rate,
        "wer": counts.total("wer").rate,
        "keyword_recall": sum(min(pair) for pair in pairs) / max(1, sum(said for said, _ in pairs)),
        "keyword_false_alarms": sum(max(0, heard - said) for said, heard in pairs),
        "keyword_occurrences": sum(said for said, _ in pairs),
    }


def train_language_model(work: Path, tokenizer_of: Path, out: Path) -> None:
    command = ["recipes/train_lm.py", "--model", tokenizer_of, "--manifest", work / "data/demo/train.jsonl"]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--order", "6", "--out", str(out)],
        cwd=ROOT, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"recipes/train_lm.py failed: {done.stderr.strip().splitlines()[-1]}")


def decoders(contract: Contract, model: LanguageModel, words: list[Keyword]) -> dict[str, Callable[[], Any]]:
    frame_ms = 1000 * contract.hop * contract.subsampling / contract.sample_rate
    settings = DecoderSettings(contract.text_vocabulary(), contract.blank_id, frame_ms)
    ours = functools.partial(BeamDecoder, settings)
    fused = BeamOptions(alpha=ALPHA, beta=BETA)
    every = BeamOptions(alpha=ALPHA, beta=BETA, token_threshold=1e9, beam_threshold=25.0)
    return {
        "greedy": functools.partial(GreedyDecoder, settings),
        "beam": ours,
        "beam, keywords": functools.partial(ours, keywords=words),
        "beam, LM": functools.partial(ours, language_model=model, options=fused),
        "beam, LM, keywords": functools.partial(ours, language_model=model, keywords=words, options=fused),
        "beam, LM, every one of 8 tokens tried": functools.partial(ours, language_model=model, options=every),
    }


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    from ko_asr.models import transcribe as transcription

    nemo = next((options.work / "experiments").rglob("fastconformer_ko_demo.nemo"), None)
    if nemo is None:
        raise UserError(f"no trained demo in {options.work}: run make demo, or name its folder with --work")
    contract = Contract.load(options.work / "triton" / tensors.ENCODER / "1")
    encoder = options.encoder or random_encoder(scratch)
    train_language_model(options.work, nemo, scratch / "lm")
    language_model, words = LanguageModel(scratch / "lm", contract.text_vocabulary().pieces), keywords()
    ours = {
        name: functools.partial(streamed, make)
        for name, make in decoders(contract, language_model, words).items()
    }
    peers = {
        f"flashlight, LM, {tokens} tokens a frame": flashlight(scratch / "lm", contract.blank_id, tokens)
        for tokens in (8, 32)
    }
    model = transcription.load_transcriber(nemo, "cpu")
    found: dict[str, Any] = {"keywords": len(words), "worth": {}}
    for split in SPLITS:
        entries = list(read_manifest(options.work / f"data/demo/{split}.jsonl"))
        clips, references = frames_of(model, entries), [entry["text"] for entry in entries]
        rows = {name: worth([*map(system, clips)], references, words) for name, system in ours.items()}
        for name, peer in peers.items():
            texts = [contract.text_vocabulary().text(peer(clip)) for clip in clips]
            rows[name] = worth(texts, references, words)
        found["worth"][split] = rows
    audio = sum(entry["duration"] for entry in entries)
    found["cost"] = costs(ours | peers, clips, audio, encoder)
    found["cost_split"] = SPLITS[-1]
    return found


def show(found: dict[str, Any]) -> None:
    for split, rows in found["worth"].items():
        occurrences = rows["greedy"]["keyword_occurrences"]
        print(f"\n{split} (synthetic), {found['keywords']} keywords, {occurrences} occurrences")
        print(f"{'':<40}{'CER %':>8}{'WER %':>8}{'recall %':>10}{'false':>7}")
        for name, row in rows.items():
            figures = f"{100 * row['cer']:>8.2f}{100 * row['wer']:>8.2f}{100 * row['keyword_recall']:>10.1f}"
            print(f"{name:<40}{figures}{row['keyword_false_alarms']:>7}")
    encoder = found["cost"]["encoder"]["ms_per_audio_second"]
    print(
        f"\nCPU time on {found['cost_split']}, one thread\n{'':<40}{'ms/s':>8}{'RTFx':>8}{'of encoder':>12}"
    )
    for name, row in found["cost"].items():
        share = row["ms_per_audio_second"] / encoder
        print(f"{name:<40}{row['ms_per_audio_second']:>8.2f}{row['rtfx']:>8.0f}{share:>12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT, help="work folder of the demo (default: here)")
    parser.add_argument("--encoder", type=Path, help="repository exported from a size-s model")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    options.work = options.work.resolve()  # its commands run from the repository's folder
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    show(found)
    if options.out:
        packages = ("numpy", "kenlm", "flashlight-text", "onnxruntime", "torch", "nemo_toolkit")
        with atomic_write(options.out) as stream:
            json.dump({"provenance": provenance(packages), **found}, stream, ensure_ascii=False, indent=1)
        print(f"wrote {options.out}")


if __name__ == "__main__":
    run_main(main)
