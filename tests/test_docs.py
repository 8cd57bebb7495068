"""The documentation held against itself and the repository: commands, links, scripts, snippets."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "src" / "ko_asr"
MOST_LINES = 130  # of README.md
MOST_SNIPPET_LINES = 5  # that are not blank, of a Python block in README.md
READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(
    r"`(?:python3? )?((?:[a-z_]+/)+[\w.]+\.(?:py|yaml|json))\b|^python (\S+\.py)\b", re.MULTILINE
)
PLACEHOLDER = re.compile(
    r"\b(?!CUDA)[A-Z]{2,}\b|\b[NMAB]x?\b(?: %)?|^grpc|FAILED train|, more than|this PyTorch"
)
# Scripts that a page tells its reader to write.
TO_BE_WRITTEN = {"recipes/prepare_sample.py", "src/ko_asr/corpora/sample.py"}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(text(page)) if language in languages]


def commands(page: Path) -> Iterator[str]:
    """Each command of the page's plain code blocks: continued lines joined, comments and spaces taken out."""
    for block in blocks(page, "", "bash", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if command := " ".join(re.sub(r"(^|\s)#.*", "", line).split()):
                yield command


def anchors(page: Path) -> set[str]:
    """The ids that headings get, by the rule that GitHub and the site share for plain headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_readme_is_short() -> None:
    assert len(text(READMES[0]).splitlines()) <= MOST_LINES


def test_commands_are_found() -> None:
    """Else the next test could not fail."""
    found = set(commands(READMES[0]))
    assert {"make demo", "make test", "python export/to_triton.py"} <= found


def test_korean_commands_are_the_english_ones() -> None:
    english = {command for page in PAGES if page != READMES[1] for command in commands(page)}
    korean = set(commands(READMES[1]))
    assert len(korean) >= 10
    assert not korean - english


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", text(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_the_site_stay_in_it(page: Path) -> None:
    if page.parent != ROOT:
        for target in LINK.findall(BLOCK.sub("", text(page))):
            path = (page.parent / target.partition("#")[0]).resolve()
            assert re.match(r"[a-z]+:", target) or path.is_relative_to(ROOT / "docs"), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_exist(page: Path) -> None:
    """Scripts, configs and results from the root; modules of the library from its own folder."""
    named = {found for pair in FILE.findall(text(page)) for found in pair if found} - TO_BE_WRITTEN
    written = ("experiments/", "data/", "triton/")
    missing = [file for file in named if not any((root / file).is_file() for root in (ROOT, LIBRARY))]
    assert not [file for file in missing if not file.startswith(written)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(textwrap.dedent(block), name(page), "exec")


@pytest.mark.parametrize("page", READMES, ids=name)
def test_snippets_are_short(page: Path) -> None:
    snippets = blocks(page, "python")
    assert snippets
    for snippet in snippets:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= MOST_SNIPPET_LINES, snippet


def test_every_page_is_in_the_navigation() -> None:
    navigation = text(ROOT / "mkdocs.yml").partition("\nnav:")[2]
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages == set(re.findall(r"[\w/-]+\.md", navigation))


def test_error_sentences_are_those_of_the_code() -> None:
    """What stands between a heading's placeholders is in the library or in export/, word for word."""
    headings = re.findall(r"^### \d+\. (.+)$", text(ROOT / "docs" / "troubleshooting.md"), re.MULTILINE)
    assert len(headings) == 16
    sources = [text(path) for folder in ("src", "export") for path in (ROOT / folder).rglob("*.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    parts = [part for heading in headings for part in PLACEHOLDER.split(heading) if len(part) > 3]
    assert not [part for part in parts if part.strip(" :") not in code]


def test_result_files_exist() -> None:
    named = set(re.findall(r"bench/results/[\w.]+json", text(ROOT / "docs" / "results.md")))
    assert named == {f"bench/results/{path.name}" for path in (ROOT / "bench" / "results").glob("*.json")}
