"""Fill a Triton model repository from a trained .nemo, after checking it against NeMo.

    python export/to_triton.py                                   # the newest .nemo under experiments/
    python export/to_triton.py --model experiments/ko/ko.nemo --repository triton/

Then: tritonserver --model-repository triton/

Nothing is written unless the ONNX graph, the log-mel front end and the text decoding agree with NeMo.
Options may also be written as key=value: `target=onnx`.
"""

import argparse
import hashlib
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from ko_asr.contract import ENCODER, ENSEMBLE, PREPROCESSOR, Contract, bucket_lengths
from ko_asr.errors import UserError, run_main
from ko_asr.nemo_file import check_nemo_file, newest_model

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="the .nemo to export (default: the newest under experiments/)")
    add(
        "--repository",
        type=Path,
        default=ROOT / "triton",
        help="where the model folders go (default: triton/)",
    )
    add("--target", choices=["onnx"], default="onnx", help="what runs the encoder")
    add("--max-batch-size", type=int, default=8, help="rows the server may put in one batch (default 8)")
    add("--max-seconds", type=float, default=60.0, help="longest audio of one request (default 60)")
    add("--instances", type=int, default=2, help="encoder sessions (default 2)")
    add("--threads", type=int, default=1, help="threads of an encoder session (default 1)")
    spelled = [f"--{a.replace('_', '-')}" if "=" in a and not a.startswith("-") else a for a in arguments]
    options = parser.parse_args(spelled)
    for name in ("max_batch_size", "max_seconds", "instances", "threads"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return options


def shown(path: Path) -> str:
    """``path`` from here when it lies below, else as it is."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def longest_samples(model: Any, seconds: float, hop: int) -> int:
    """``seconds`` in samples, if the positional table of the encoder holds them."""
    subsampling = int(model.encoder.subsampling_factor)
    rate = int(model.preprocessor.featurizer.sample_rate)
    table = int(model.encoder.pos_emb_max_len) * subsampling * hop
    if seconds * rate > table:
        raise UserError(
            f"--max-seconds {seconds:g} is more than the encoder's {table // rate} s positional table"
        )
    return int(seconds * rate)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "nemo_toolkit", "onnx", "onnxruntime", "ko-asr")}


def gate(model: Any, log_mel: Any, graph: Path, max_frames: int) -> dict[str, float]:
    """Print every figure; raise UserError when one is above its limit."""
    from ko_asr.parity import check_graph, check_log_mel

    figures = check_log_mel(model, log_mel) + check_graph(model, graph, len(log_mel.filters), max_frames)
    for figure in figures:
        verdict = "ok" if figure.passed else "TOO FAR"
        print(f"  {figure.name:<34} {figure.value:.1e}  (limit {figure.limit:.0e})  {verdict}")
    if failed := [figure.name for figure in figures if not figure.passed]:
        raise UserError(f"the export differs from NeMo in: {'; '.join(failed)}; nothing was written")
    return {figure.name: figure.value for figure in figures}


def make_contract(model: Any, path: Path, graph: Path, log_mel: Any, options: argparse.Namespace) -> Contract:
    from ko_asr.parity import find_vocabulary

    max_samples = longest_samples(model, options.max_seconds, log_mel.hop)
    vocabulary = find_vocabulary(model.tokenizer.tokenizer)
    return Contract(
        export_id=secrets.token_hex(8),
        model=path.name,
        model_sha256=sha256(path),
        onnx_sha256=sha256(graph),
        vocabulary=vocabulary.to_json(),
        blank_id=len(vocabulary.pieces),
        mels=len(log_mel.filters),
        sample_rate=int(model.preprocessor.featurizer.sample_rate),
        hop=log_mel.hop,
        subsampling=int(model.encoder.subsampling_factor),
        min_samples=log_mel.min_samples,
        max_samples=max_samples,
        bucket_frames=bucket_lengths(log_mel.frames(max_samples)),
        max_batch_size=options.max_batch_size,
        target=options.target,
        versions=versions(),
        parity=gate(model, log_mel, graph, log_mel.frames(max_samples)),
    )


def main() -> None:
    options = parse(sys.argv[1:])
    path = options.model or newest_model(EXPERIMENTS)
    check_nemo_file(path)
    print(f"exporting {shown(path)}" + ("" if options.model else f" (the newest under {EXPERIMENTS.name}/)"))
    from ko_asr import repository

    with repository.staging(options.repository) as stage:
        from ko_asr.model_card import write_model_card
        from ko_asr.onnx_export import export_encoder, load_model, log_mel_of

        started = time.monotonic()
        model = load_model(path)
        log_mel = log_mel_of(model)
        graph, front_end = stage / "model.onnx", stage / "logmel.npz"
        max_frames = log_mel.frames(longest_samples(model, options.max_seconds, log_mel.hop))
        export_encoder(model, graph, max_frames)
        log_mel.save(front_end)
        print("against NeMo, largest difference:")
        contract = make_contract(model, path, graph, log_mel, options)
        files = {f"{ENCODER}/model.onnx": graph, f"{PREPROCESSOR}/logmel.npz": front_end}
        serving = repository.Serving(instances=options.instances, threads=options.threads)
        repository.build(stage, contract, serving, ROOT / "triton", files)
        write_model_card(path, stage / ENSEMBLE / repository.VERSION / "model_card.md", repository=stage)
        repository.publish(stage, options.repository)
    print(f"model card: {shown(options.repository)}/{ENSEMBLE}/{repository.VERSION}/model_card.md")
    models = ", ".join(sorted(repository.CONFIGS))
    print(f"wrote {shown(options.repository)}/ ({models}) in {time.monotonic() - started:.0f} s")
    print(f"next: tritonserver --model-repository {shown(options.repository)}/")


if __name__ == "__main__":
    run_main(main)
