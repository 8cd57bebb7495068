"""What the offline ensemble hears where nobody speaks, with and without its gate, beside NeMo:

    python bench/silence.py --work DIR        # a folder in which recipes/demo.py --work DIR has run

Digital silence, rounding to 16 bits, noise and hum of 0.5 to 10 s go through stock NeMo and through the steps
of the exported ensemble in this process (numpy features, ONNX graph, greedy decoding). Then both eval
sets, as they are and at -50 dBFS: how many utterances the gate answers with nothing, and the CER with and
without it. Writes JSON.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ko_asr.audio.read import read_segment
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import run_main
from ko_asr.evaluation.metrics import PROFILES, headline_counts
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime import ctc, file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.silence import SILENCE_DBFS, is_silent

ROOT = Path(__file__).resolve().parent
RATE = 16_000  # Hz
SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
SOFT_DBFS = -50.0


def sounds(seconds: float) -> dict[str, np.ndarray]:
    """Audio [n] in which nobody speaks, by name."""
    rng, times = np.random.default_rng(0), np.arange(int(seconds * RATE)) / RATE
    found = {
        "digital silence": np.zeros(len(times)),
        "rounding to 16 bits": rng.integers(-1, 2, len(times)) / 32768,
        "noise at -80 dBFS": 1e-4 * rng.standard_normal(len(times)),
        "noise at -50 dBFS": 10**-2.5 * rng.standard_normal(len(times)),
        "hum of 60 Hz at -43 dBFS": 0.01 * np.sin(2 * np.pi * 60 * times),
    }
    return {name: audio.astype(np.float32) for name, audio in found.items()}


def ensemble(repository: Path) -> Callable[[np.ndarray], tuple[str, float]]:
    """Text and confidence of audio [n] by the steps of the exported ensemble, without its gate."""
    import onnxruntime

    contract = Contract.load(repository / tensors.DECODER / "1")
    log_mel = LogMel.load(repository / tensors.PREPROCESSOR / "1" / file_names.LOG_MEL)
    session = onnxruntime.InferenceSession(repository / tensors.ENCODER / "1" / file_names.GRAPH)
    vocabulary, names = contract.text_vocabulary(), [tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS]

    def hear(audio: np.ndarray) -> tuple[str, float]:
        features = log_mel(audio)[None]
        length = np.array([[features.shape[2]]])
        ids, scores = session.run(names, {tensors.FEATURES: features, tensors.LENGTH: length})
        best = scores[0, :, 0]
        tokens = ctc.collapse(ids[0, :, 0], contract.blank_id, best)
        return vocabulary.text(token.id for token in tokens), ctc.confidence(tokens, best)

    return hear


def nemo(model: Path) -> Callable[[np.ndarray], str]:
    """Stock NeMo's text of audio [n]."""
    from ko_asr.models.nemo_file import restore_model

    restored = restore_model(model)
    return lambda audio: restored.transcribe([audio], batch_size=1, verbose=False)[0].text


def gated(audio: np.ndarray, answer: tuple[str, float]) -> tuple[str, float]:
    """The ensemble's answer with its gate."""
    return ("", 0.0) if is_silent(audio, SILENCE_DBFS) else answer


def at_level(audio: np.ndarray, dbfs: float) -> np.ndarray:
    """``audio`` [n] scaled so that its root mean square is ``dbfs``."""
    return audio * np.float32(10 ** (dbfs / 20) / np.sqrt(np.square(audio).mean()))


def speech(manifest: Path, hear: Callable, level: float | None) -> dict:
    """CER of a manifest with and without the gate, and how many utterances the gate stops."""
    references, open_texts, gated_texts, stopped = [], [], [], 0
    for entry in read_manifest(manifest):
        audio = read_segment(entry, RATE)
        audio = audio if level is None else at_level(audio, level)
        answer = hear(audio)
        references.append(entry["text"])
        open_texts.append(answer[0])
        gated_texts.append(gated(audio, answer)[0])
        stopped += is_silent(audio, SILENCE_DBFS)
    cer = [headline_counts(references, texts, PROFILES["plain"]).rate for texts in (open_texts, gated_texts)]
    return {"utterances": len(references), "stopped": stopped, "cer": cer[0], "cer_with_gate": cer[1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="the work folder of recipes/demo.py")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "silence.json")
    args = parser.parse_args()
    name = "fastconformer_ko_demo"
    hear = ensemble(args.work / "triton")
    peer = nemo(args.work / "experiments" / name / "checkpoints" / f"{name}.nemo")
    rows = []
    for seconds in SECONDS:
        for sound, audio in sounds(seconds).items():
            answer, (text, sure) = hear(audio), gated(audio, hear(audio))
            heard = {"nemo": peer(audio), "ensemble": answer[0], "confidence": round(answer[1], 3)}
            rows.append(
                {"sound": sound, "seconds": seconds, **heard, "gated": text, "gated_confidence": sure}
            )
            print(rows[-1], flush=True)
    sets = {}
    for split in ("eval_clean", "eval_other"):
        for level in (None, SOFT_DBFS):
            label = split if level is None else f"{split} at {level:g} dBFS"
            sets[label] = speech(args.work / "data/demo" / f"{split}.jsonl", hear, level)
            print(label, sets[label], flush=True)
    result = {"limit_dbfs": SILENCE_DBFS, "silence": rows, "speech": sets}
    with atomic_write(args.out) as stream:
        json.dump(
            result | provenance(("numpy", "onnxruntime", "nemo_toolkit")),
            stream,
            indent=1,
            ensure_ascii=False,
        )
        stream.write("\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
