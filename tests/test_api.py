"""`import ko_asr`: quick, without side effects, complete; and README's Python, run as it stands."""

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run

import ko_asr
from ko_asr.client.offline import AsrClient
from ko_asr.client.streaming import StreamingClient
from ko_asr.data.manifest import read_manifest
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
URL = "127.0.0.1:8001"  # as README has it

# tarfile: what a stand-in for it was once put in the place of.
IMPORT = """
import json, sys, tarfile, time
for name in [name for name in sys.modules if name.partition(".")[0] == "ko_asr"]:
    del sys.modules[name]  # the environment's .pth file (ko_asr.checkout) has imported it
before = dict(sys.modules)
started = time.perf_counter()
import ko_asr
seconds = time.perf_counter() - started
replaced = [name for name, module in before.items() if sys.modules.get(name) is not module]
added = {name.partition(".")[0] for name in sys.modules.keys() - before.keys()}
print(json.dumps([seconds, replaced, sorted(added - sys.stdlib_module_names)]))
"""


def imported() -> tuple[float, list[str], list[str]]:
    """Seconds that the import took, the modules that it replaced, the packages that it brought along."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True, cwd="/")
    return tuple(json.loads(done.stdout))


def test_the_import_is_quick_and_leaves_the_process_alone() -> None:
    found = [imported() for _ in range(5)]
    assert min(seconds for seconds, _, _ in found) < 0.1
    for _, replaced, added in found:
        assert (replaced, added) == ([], ["ko_asr"])


@pytest.mark.parametrize("name", ko_asr.__all__)
def test_a_public_name_is_there_listed_and_documented(name: str) -> None:
    value = getattr(ko_asr, name)
    assert value.__name__ == name and name in dir(ko_asr)
    assert value.__doc__ and not value.__doc__.startswith(f"{name}("), "a dataclass writes such a docstring"
    assert inspect.cleandoc(value.__doc__).partition("\n")[0].endswith((".", ":"))


def test_type_checkers_see_what_is_imported() -> None:
    tree = ast.parse(Path(ko_asr.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [(alias.name, node.module) for node in block.body for alias in node.names]
    assert sorted(name for name, _ in seen) == sorted(ko_asr.__all__)
    for name, module in seen:
        assert getattr(ko_asr, name).__module__ == module


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ko_asr.nothing


# ---- README ---------------------------------------------------------------------------------------------


def snippet(word: str) -> str:
    """The one block of README that uses ``word``."""
    (found,) = [block for block in SNIPPETS if word in block]
    return found


def printed(block: str, folder: Path) -> str:
    script = folder / "snippet.py"
    script.write_text(block, encoding="utf-8")
    done = run(script, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_every_snippet_is_run_by_one_of_these_tests() -> None:
    words = ("transcribe_file", "AsrClient", "StreamingClient", "normalize", "score(")
    assert sorted(SNIPPETS) == sorted(map(snippet, words))


@pytest.mark.parametrize("word", ["normalize", "score("])
def test_text_and_scores_are_those_of_the_comments(word: str, tmp_path: Path) -> None:
    block = snippet(word)
    _, _, comment = block.strip().rpartition("  # ")
    assert comment and printed(block, tmp_path) == comment


@pytest.fixture
def folder(demo, tmp_path: Path) -> Path:
    """Where the snippets find model.nemo and speech.wav."""
    shutil.copy(demo.model, tmp_path / "model.nemo")
    spoken = next(read_manifest(demo.manifests["eval_clean"]))["audio_filepath"]
    shutil.copy(spoken, tmp_path / "speech.wav")
    return tmp_path


def test_a_file_is_transcribed_here_and_by_a_server(demo, folder: Path) -> None:
    with AsrClient(demo.url) as client:
        wanted = client.transcribe(ko_asr.read_audio(folder / "speech.wav"), words=True)
    assert wanted.text and wanted.words
    assert printed(snippet("transcribe_file"), folder) == wanted.text
    block = snippet("AsrClient")
    assert URL in block and printed(block.replace(URL, demo.url), folder) == str(wanted)


@pytest.fixture
def url(demo, streaming_repository: Path) -> Iterator[str]:
    with TritonServer(streaming_repository, demo.server) as server:
        yield server.url


def test_a_file_is_streamed(url: str, folder: Path) -> None:
    audio = ko_asr.read_audio(folder / "speech.wav")
    with StreamingClient(url) as client, client.open(ko_asr.StreamOptions(keywords=("철수:3",))) as stream:
        results = [*stream.send(audio), *stream.finish()]
    wanted = " ".join(result.text for result in results if result.is_final)
    block = snippet("StreamingClient")
    assert wanted and URL in block and printed(block.replace(URL, url), folder) == wanted
