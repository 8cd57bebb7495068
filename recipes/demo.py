"""From nothing to a served Korean transcript: runs the project's own commands one after the other.

    make demo                                    # sets up the environments first
    python recipes/demo.py [--utterances N]      # when they are there
    make demo-streaming                          # and a model that is fed chunk by chunk, four minutes more

The corpus is synthetic speech (espeak-ng) in the KsponSpeech layout, so the same commands work on KsponSpeech
itself. What an earlier run finished (corpus, manifests, tokenizer, model) is kept; `make clean` removes it.
The figures at the end are written to results/demo/demo.json as well.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from openai import OpenAI

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.evaluation.metrics import character_counts
from ko_asr.files import atomic_write
from ko_asr.serving.server import DYING_WITH_PARENT, TritonServer, free_ports
from ko_asr.text.normalizer import normalize

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "fastconformer_ko_demo"
MODEL = Path("experiments") / CONFIG / "checkpoints" / f"{CONFIG}.nemo"
STREAMING_CONFIG = "fastconformer_ko_streaming_demo"
STREAMING_MODEL = Path("experiments") / STREAMING_CONFIG / "checkpoints" / f"{STREAMING_CONFIG}.nemo"
HELD_OUT = "data/demo_corpus/held_out/held_out"  # .wav and .txt: a sentence that is in no split
EVAL_SPLITS = ("eval_clean", "eval_other")
CORPUS, DATA, TOKENIZER, RESULTS = (
    Path(p) for p in ("data/demo_corpus", "data/demo", "tokenizers/demo", "results/demo")
)


def python(script: str | Path, *arguments: str | Path) -> list[str]:
    """Return the command that runs one of this project's scripts, from whichever folder."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


@dataclass
class Demo:
    """Runner of this project's scripts: it prints each as a user would type it and keeps the times."""

    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, title: str, *command: str | Path, done: Path | None = None) -> None:
        """Run a script unless ``done`` exists; a failure ends the demo with the script's own exit status."""
        line = shlex.join(["python", *map(str, command)])
        if done is not None and done.exists():
            print(f"\n== {title}: {done} is there already\n   {line}", flush=True)
            return
        print(f"\n== {title}\n$ {line}", flush=True)
        started = time.monotonic()
        status = subprocess.run(python(*command), check=False).returncode
        if status:
            raise SystemExit(status)
        self.seconds[title] = round(time.monotonic() - started, 1)

    def train(self, utterances: int) -> None:
        """Make corpus, manifests, tokenizer and model."""
        self.run(
            "synthesise a corpus in the KsponSpeech layout", "recipes/make_demo_corpus.py",
            "--out", CORPUS, "--utterances", str(utterances), done=Path(f"{HELD_OUT}.txt"),
        )  # fmt: skip
        self.run(
            "build manifests", "recipes/prepare_ksponspeech.py", "--corpus", CORPUS, "--out", DATA,
            done=DATA / "eval_other.jsonl",
        )  # fmt: skip
        self.run(
            "build a tokenizer", "tokenizers/build.py", "--type", "jamo",
            "--manifest", DATA / "train.jsonl", "--out", TOKENIZER, done=TOKENIZER / "tokenizer.model",
        )  # fmt: skip
        self.run(
            "train FastConformer-CTC from scratch",
            "recipes/train_ctc.py",
            "--config-name",
            CONFIG,
            done=MODEL,
        )

    def evaluate_and_export(self) -> None:
        """Score both eval sets, then write the model repository."""
        for split in EVAL_SPLITS:
            self.run(
                f"score {split}", "recipes/evaluate.py", "--model", MODEL,
                "--manifest", DATA / f"{split}.jsonl", "--out", RESULTS / split,
            )  # fmt: skip
        self.run("export", "export/to_triton.py", "--model", MODEL, "--repository", "triton")

    def stream(self) -> None:
        """Train and serve a cache-aware model beside the first one; stream the held-out sentence to it."""
        self.run(
            "train a streaming FastConformer-CTC", "recipes/train_ctc.py", "--config-name", STREAMING_CONFIG,
            done=STREAMING_MODEL,
        )  # fmt: skip
        self.run(
            "export the streaming ensembles", "export/to_triton.py", "--model", STREAMING_MODEL,
            "--repository", "triton", "--look-aheads", "6,1",
        )  # fmt: skip
        with TritonServer("triton", ROOT / ".server") as server:
            for model in ("asr_streaming", "asr_streaming_1"):
                self.run(
                    f"stream to {model}, at the speed of speech", "recipes/stream_client.py",
                    f"{HELD_OUT}.wav", "--realtime", "--url", server.url, "--model", model,
                )  # fmt: skip
        print(f"   said        {Path(f'{HELD_OUT}.txt').read_text(encoding='utf-8').strip()}")

    def bench(self) -> None:
        """Measure the ensemble's throughput beside its own encoder's, on random weights of size s."""
        self.run(
            "throughput: the ensemble against its own encoder, bare (size s)", "bench/offline_ensemble.py",
            "--out", RESULTS / "offline_ensemble.json", "--rounds", "3",
        )  # fmt: skip


def transcribe(url: str, files: list[Path]) -> dict[str, dict]:
    """Return the answers of the gRPC client by absolute path."""
    command = python("recipes/transcribe_client.py", "--url", url, "--concurrency", "8", *files)
    print(
        f"\n$ python recipes/transcribe_client.py --url {url} --concurrency 8 ({len(files)} files)",
        flush=True,
    )
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
    return {os.path.abspath(answer["file"]): answer for answer in map(json.loads, output.splitlines())}


def served_equals_nemo(answers: dict[str, dict]) -> tuple[int, int]:
    """Count (utterances whose served text equals NeMo's, utterances) over both eval sets."""
    equal = total = 0
    for split in EVAL_SPLITS:
        for entry in read_manifest(RESULTS / split / "predictions.jsonl"):
            equal += answers[entry["audio_filepath"]]["text"] == entry["pred_text"]
            total += 1
    return equal, total


@contextlib.contextmanager
def gateway(triton: str) -> Iterator[str]:
    """The address of a gateway before ``triton``, until the block ends. UserError when it does not start."""
    python, port = ROOT / ".gateway/bin/python", free_ports(1)[0]
    command = ["-m", "ko_asr.gateway", "--triton", triton, "--port", str(port)]
    command += ["--data", str(RESULTS / "gateway")]
    print(f"\n== HTTP in front of it\n$ {shlex.join(['.gateway/bin/python', *command])}", flush=True)
    if not python.exists():
        raise UserError("there is no .gateway: make setup-gateway")
    log = RESULTS / "gateway.log"
    with log.open("w", encoding="utf-8") as stream:
        line = [*DYING_WITH_PARENT, str(python), *command]
        process = subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(url):
            if process.poll() is not None:
                raise UserError(f"the gateway ended before it answered: {log} says why")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    """Whether the gateway at ``url`` is ready, which is an inference."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=20):
            return True
    except OSError:
        return False


def ask_gateway(triton: str, wav: Path) -> str:
    """The text of ``wav`` through a gateway, asked by OpenAI's own client."""
    with gateway(triton) as url, wav.open("rb") as file:
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        print('$ OpenAI(base_url=...).audio.transcriptions.create(model="asr", file=...)', flush=True)
        text = client.audio.transcriptions.create(model="asr", file=file).text
    print(f"   transcript  {text}")
    return text


def serve_and_compare() -> dict:
    """Serve the repository, transcribe the eval sets and a sentence of no split, compare with NeMo's text."""
    spoken = normalize(Path(f"{HELD_OUT}.txt").read_text(encoding="utf-8"))  # as the manifests are
    wav = Path(f"{HELD_OUT}.wav")
    splits = [list(read_manifest(DATA / f"{name}.jsonl")) for name in EVAL_SPLITS]
    files = [Path(entry["audio_filepath"]) for split in splits for entry in split]
    print("\n== serve it\n$ tritonserver --model-repository triton/", flush=True)
    with TritonServer("triton", ROOT / ".server") as server:
        found = transcribe(server.url, [*files, wav])
        answer = found[os.path.abspath(wav)]
        show_held_out(wav, spoken, answer)
        through_gateway = ask_gateway(server.url, wav)
    equal, total = served_equals_nemo(found)
    return {
        "held_out": {"said": spoken, **answer},
        "gateway": {"text": through_gateway},
        "served_equal": equal,
        "served_total": total,
    }


def show_held_out(wav: Path, spoken: str, answer: dict) -> None:
    """Print what was said and what the server heard."""
    print(f"   {wav}, a sentence that is in no split:")
    print(f"   said        {spoken}")
    print(f"   transcript  {answer['text']}")
    print(f"   confidence  {answer['confidence']:.2f}   latency {answer['latency_ms']:.0f} ms")
    print(f"   CER         {character_counts(spoken, answer['text']).rate:.2%}")


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def summary(demo: Demo, served: dict, started: float) -> dict:
    """Gather every figure of the run from the files that the commands wrote."""
    scores = {split: load(RESULTS / split / "scores.json") for split in EVAL_SPLITS}
    return {
        "wall_seconds": round(time.time() - started, 1),
        "step_seconds": demo.seconds,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cer": {split: score["metrics"]["cer"]["rate"] for split, score in scores.items()},
        "coda_error_rate": {split: score["metrics"]["coda"]["rate"] for split, score in scores.items()},
        "log_probs_difference": load(Path("triton/asr/1/contract.json"))["parity"],
        "ensemble": load(bench) if (bench := RESULTS / "offline_ensemble.json").exists() else None,
        **served,
    }


def print_summary(figures: dict) -> None:
    """Print the figures beside the limits that the project sets itself."""
    equal, total = figures["served_equal"], figures["served_total"]
    through_gateway = figures["gateway"]["text"] == figures["held_out"]["text"]
    rows = [
        ("wall time", f"{figures['wall_seconds'] / 60:.1f} min", "<= 12 min on 2 cores, downloads included"),
        ("CER eval_clean", f"{figures['cer']['eval_clean']:.2%}", "<= 5 %"),
        ("CER eval_other (noisy)", f"{figures['cer']['eval_other']:.2%}", ""),
        ("받침 error rate eval_clean", f"{figures['coda_error_rate']['eval_clean']:.2%}", ""),
        ("served text == NeMo text", f"{equal} of {total}", "all"),
        ("text through the gateway == served text", "yes" if through_gateway else "no", "yes"),
        (
            "log-probabilities, largest difference",
            f"{max(figures['log_probs_difference'].values()):.1e}",
            "<= 1e-3",
        ),
    ]
    if ensemble := figures["ensemble"]:
        rows.append(("ensemble / bare encoder, 8 clients", f"{ensemble['ratio']:.2f}", ">= 0.8"))
    print("\n== figures (synthetic speech: they say that the parts fit, nothing about people)")
    for name, value, limit in rows:
        print(f"   {name:<40} {value:>12}   {limit}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=1800, help="training utterances (default 1800)")
    parser.add_argument("--started", type=float, default=time.time(), help="when make began, in Unix seconds")
    parser.add_argument("--work", type=Path, default=ROOT, help="folder for everything it writes")
    parser.add_argument(
        "--streaming", action="store_true", help="train, serve and stream a streaming model too"
    )
    parser.add_argument("--no-bench", action="store_true", help="leave the throughput figure out")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.work)
    demo = Demo()
    demo.train(arguments.utterances)
    demo.evaluate_and_export()
    served = serve_and_compare()
    if arguments.streaming:
        demo.stream()
    if not arguments.no_bench:
        demo.bench()
    figures = summary(demo, served, arguments.started)
    with atomic_write(RESULTS / "demo.json") as stream:
        json.dump(figures, stream, ensure_ascii=False, indent=1)
    print_summary(figures)
    print(f"\nwrote {RESULTS}/demo.json and an error report, {RESULTS}/eval_clean/report.html")
    print(f"next: make serve, then .venv/bin/python recipes/transcribe_client.py {HELD_OUT}.wav")
    print("or:   make gateway, then http://127.0.0.1:9000/ in a browser: a microphone, files, subtitles")


if __name__ == "__main__":
    run_main(main)
