"""The demo, run once a test session through its own command and shared by every test that needs a model.

`make test` runs two processes (pytest-xdist): one trains the first model while the other does what needs
none, and then, rather than wait, trains the second.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import commands
import numpy as np
import pytest
import soundfile
from filelock import FileLock, Timeout
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "src"
TOO_SLOW = ROOT / "tests/too_slow"
collect_ignore = ["too_slow", "warm.py", "warm_nemo.py"]  # importing them is what they are for
# With the repository root on sys.path, triton/ and tokenizers/ would shadow the packages that torch and
# transformers import.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
# Each of several processes computes, here and in what it starts, with its share of the cores. Threads spin
# while they wait for one whose core another process has: a batch was overfitted in 111 s, not in 13.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
# An example takes many times as long where others compute on the same cores.
settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")


@dataclass(frozen=True)
class DemoRun:
    """What `recipes/demo.py` left in its work folder, and a tritonserver that serves it."""

    work: Path
    output: str  # what the command printed
    model: Path
    repository: Path
    manifests: dict[str, Path]
    results: dict[str, Path]
    figures: dict
    server: Path
    url: str
    metrics_url: str


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Doctests())


class Doctests:
    """Of the library, collect the modules with a doctest: each is imported, and some import NeMo."""

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        module = collection_path.suffix == ".py" and collection_path.is_relative_to(LIBRARY)
        return True if module and ">>> " not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow whatever needs a trained model (what needs NeMo alone is marked where it stands); sort.

    First comes one file that needs one model, so that it is trained at once; then the files that need none,
    one and both models, long ones before short ones, so that both processes end together.
    """
    for item in items:
        if models([item]):
            item.add_marker("slow")
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    files.sort(key=lambda tests: (models(tests), -sum(map(is_slow, tests))))
    first = next((tests for tests in files if models(tests)), [])
    items[:] = first + [test for tests in files if tests is not first for test in tests]


def models(tests: list[pytest.Item]) -> int:
    """How many trained models the tests need."""
    needed = {name for test in tests for name in getattr(test, "fixturenames", ())}
    return len(needed & {"demo", "streaming_model"})


def pytest_collection_finish(session: pytest.Session) -> None:
    if not any(map(is_slow, session.items)):
        commands.leave_nemo_out()


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let `import nemo` fail in a test that is not slow, and in the processes that it starts."""
    if is_slow(item):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOO_SLOW)
        patch.setenv("PYTHONPATH", str(TOO_SLOW), prepend=os.pathsep)
        return (yield)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this session's processes, of which there is one ("master") unless -n says otherwise."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """``path``, made by the first of this session's processes that needs it while the others wait."""
    done = path.with_name(f".{path.name}.done")
    with FileLock(lock_of(path)):
        if not done.exists():
            make(path)
            done.touch()
    return path


def lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def is_being_made(path: Path) -> bool:
    """Whether another process of this session is in ``made_once(path, ...)``."""
    try:
        with FileLock(lock_of(path), timeout=0):
            return False
    except Timeout:
        return True


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What the script printed; AssertionError, with the end of its messages, when it failed."""
    line = [sys.executable, *map(str, command)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def demo(shared: Path, request: pytest.FixtureRequest) -> Iterator[DemoRun]:
    """The demo in a folder of its own: corpus, manifests, tokenizer, training, scores, export, serving.

    KO_ASR_DEMO_WORK names a folder to keep between sessions, which saves a developer the training.
    """
    from ko_asr.serving.server import TritonServer

    keep = os.environ.get("KO_ASR_DEMO_WORK")
    work = Path(keep) if keep else shared / "demo"

    def make(log: Path) -> None:
        printed = run("recipes/demo.py", "--work", work, "--no-bench")
        log.write_text(printed, encoding="utf-8")

    if models(request.session.items) == 2:
        while is_being_made(shared / "demo.log"):
            # Its folder is made when the first training begins, so corpus and tokenizer are there.
            if (work / "experiments").exists():
                train_streaming_model(work, shared)
                break
            time.sleep(0.5)
    output = made_once(shared / "demo.log", make).read_text(encoding="utf-8")
    splits = ("eval_clean", "eval_other")
    with TritonServer(work / "triton", ROOT / ".server") as server:
        yield DemoRun(
            work=work,
            output=output,
            model=next((work / "experiments").rglob("fastconformer_ko_demo.nemo")),
            repository=work / "triton",
            manifests={name: work / f"data/demo/{name}.jsonl" for name in ("train", "dev", *splits)},
            results={name: work / f"results/demo/{name}" for name in splits},
            figures=json.loads((work / "results/demo/demo.json").read_text(encoding="utf-8")),
            server=ROOT / ".server",
            url=server.url,
            metrics_url=server.metrics_url,
        )


@pytest.fixture(scope="session")
def few_utterances(demo: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Arguments that let a recipe train in one process on 24 utterances of the demo and validate on six."""
    folder = tmp_path_factory.mktemp("few_utterances")
    for split, count in (("train", 24), ("dev", 6)):
        lines = demo.manifests[split].read_text(encoding="utf-8").splitlines()[:count]
        entries = [json.loads(line) for line in lines]
        for entry in entries:
            entry["audio_filepath"] = str(demo.manifests[split].parent / entry["audio_filepath"])
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    data = f"data.dir={folder}", f"data.tokenizer={demo.work / 'tokenizers/demo'}"
    return *data, "trainer.devices=1"


@pytest.fixture(scope="session")
def streaming_repository(streaming_model: Path, shared: Path) -> Path:
    """A model repository with the streaming ensembles asr_streaming and asr_streaming_1."""

    def export(repository: Path) -> None:
        script = "export/to_triton.py"
        done = commands.run(script, "look_aheads=6,1", f"model={streaming_model}", f"repository={repository}")
        assert done.returncode == 0, done.stderr

    return made_once(shared / "streaming_repository", export)


@pytest.fixture(scope="session")
def streaming_model(demo: DemoRun, shared: Path) -> Path:
    """A cache-aware .nemo, trained once in the demo's folder on the demo's corpus."""
    return train_streaming_model(demo.work, shared)


def train_streaming_model(work: Path, shared: Path) -> Path:
    config = "fastconformer_ko_streaming_demo"
    model = work / "experiments" / config / "checkpoints" / f"{config}.nemo"

    def train(_: Path) -> None:
        if not model.exists():
            # Two thirds of the recipe's steps: the tests need text, not the lowest error rate.
            command = "--config-name", config, "trainer.max_steps=720"
            run(ROOT / "recipes/train_ctc.py", *command, cwd=work)

    made_once(shared / "streaming_model", train)
    return model


@pytest.fixture(scope="session")
def graph_repository(demo: DemoRun, streaming_model: Path, shared: Path) -> Path:
    """Both demo models exported with front_end=graph, the offline one over a numpy export."""

    def export(repository: Path) -> None:
        shutil.copytree(demo.repository, repository, ignore=shutil.ignore_patterns("__pycache__"))
        for options in ([f"model={demo.model}"], [f"model={streaming_model}", "look_aheads=1"]):
            script = "export/to_triton.py"
            done = commands.run(script, "front_end=graph", f"repository={repository}", *options)
            assert done.returncode == 0, done.stderr

    return made_once(shared / "graph_repository", export)


@pytest.fixture(scope="session")
def clips(demo: DemoRun) -> list[np.ndarray]:
    """Every utterance of both eval sets."""
    found = []
    for split in ("eval_clean", "eval_other"):
        manifest = demo.manifests[split]
        for line in manifest.read_text(encoding="utf-8").splitlines():
            path = manifest.parent / json.loads(line)["audio_filepath"]
            found.append(soundfile.read(path, dtype="float32")[0])
    assert len(found) == 200
    return found
