"""Sentences with their accepted written forms, and how a normaliser does on them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.evaluation.written_value import folded

HEADER = ("class", "spoken", "written")
_NVIDIA = "test_cases_*.txt"


@dataclass(frozen=True)
class Case:
    """A spoken text and its written forms in the accepted styles, the preferred one first."""

    kind: str
    spoken: str
    accepted: tuple[str, ...]
    where: str  # file:line


@dataclass(frozen=True)
class Result:
    """What a normaliser wrote for a case."""

    case: Case
    written: str

    @property
    def exact(self) -> bool:
        """True for a written form in an accepted style."""
        return self.written in self.case.accepted

    @property
    def right(self) -> bool:
        """True for the right value in whatever style (`ko_asr.evaluation.written_value.folded`)."""
        return self.exact or folded(self.written) in map(folded, self.case.accepted)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return {
            "class": self.case.kind,
            "where": self.case.where,
            "spoken": self.case.spoken,
            "accepted": list(self.case.accepted),
            "written": self.written,
            "exact": self.exact,
            "value_right": self.right,
        }


def read_cases(path: Path) -> list[Case]:
    """Read tab-separated cases: class, spoken and written, whose accepted styles ``|`` separates.

    UserError with file and line for a line that is not that, and for another encoding.
    """
    cases = []
    for number, line in _lines(path):
        parts = tuple(part.strip() for part in line.split("\t"))
        if number == 1:
            if parts != HEADER:
                raise UserError(f"{path}:1: the first line is {'<tab>'.join(HEADER)}, not {line[:60]!r}")
            continue
        if len(parts) != 3 or not all(parts):
            raise UserError(
                f"{path}:{number}: not class, spoken and written: give three texts, with tabs between"
            )
        accepted = tuple(style.strip() for style in parts[2].split("|"))
        if not all(accepted):
            raise UserError(f"{path}:{number}: an empty style beside a |: write it or drop the |")
        cases.append(Case(parts[0], parts[1], accepted, f"{path}:{number}"))
    return _some(cases, path)


def read_nvidia(path: Path) -> list[Case]:
    """Read the test cases of NVIDIA's Korean inverse text normaliser: a folder of ``test_cases_CLASS.txt``.

    Their lines are ``spoken~written``. UserError as `read_cases`, and for a folder that holds none.
    """
    files = sorted(path.glob(_NVIDIA))
    if not files:
        raise UserError(
            f"no {_NVIDIA} in {path}: give the folder data_inverse_text_normalization of "
            "tests/nemo_text_processing/ko in NVIDIA's NeMo-text-processing repository"
        )
    cases = []
    for file in files:
        kind = file.stem.removeprefix("test_cases_")
        for number, line in _lines(file):
            spoken, mark, written = (part.strip() for part in line.partition("~"))
            if not (spoken and mark and written):
                raise UserError(f"{file}:{number}: not spoken~written")
            cases.append(Case(kind, spoken, (written,), f"{file}:{number}"))
    return _some(cases, path)


def _some(cases: list[Case], path: Path) -> list[Case]:
    if not cases:
        raise UserError(f"{path} holds no case")
    return cases


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    """Yield (line number from 1, text) of the lines that are not blank."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no cases at {path}") from error
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8: convert the file first (iconv -t UTF-8)") from error
        if text.strip():
            yield number, text


def results(cases: Sequence[Case], normalise: Callable[[list[str]], list[str]]) -> list[Result]:
    """Normalise all cases; spaces around and between words do not count."""
    written = normalise([case.spoken for case in cases])
    return [
        Result(case, re.sub(r"\s+", " ", text).strip()) for case, text in zip(cases, written, strict=True)
    ]


def by_class(found: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Count cases, exact ones and right values of each class, in the order of the file, and of all."""
    rows: dict[str, dict[str, Any]] = {}
    for result in found:
        for name in (result.case.kind, "all"):
            row = rows.setdefault(name, {"n": 0, "exact": 0, "right": 0})
            row["n"] += 1
            row["exact"] += result.exact
            row["right"] += result.right
    rows["all"] = rows.pop("all")
    return rows


def failures(name: str, found: Sequence[Result]) -> str:
    """The cases that are not exact, ``!`` before those whose value is wrong, as lines for the terminal."""
    lines = [f"{name}:"]
    for result in found:
        if not result.exact:
            case, mark = result.case, " " if result.right else "!"
            lines.append(f"{mark} {case.where} {case.kind}: {case.spoken}")
            lines.append(f"    came {result.written}")
            lines.append(f"    not  {' | '.join(case.accepted)}")
    return "\n".join(lines if len(lines) > 1 else [])


def comparison(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """`by_class` of several normalisers of the same cases as one table for the terminal."""
    names = [Path(name.split()[0]).name[:20] for name in rows]
    heads = [f"{name} exact  value right" for name in names]
    first = next(iter(rows.values()))
    lines = [f"{'class':<14}{'n':>6}" + "".join(f"  {head:>30}" for head in heads)]
    for kind, row in first.items():
        cells = "".join(_cell(table[kind]) for table in rows.values())
        lines.append(f"{kind:<14}{row['n']:>6}{cells}")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    exact, right = row["exact"], row["right"]
    return f"  {exact:>8} {100 * exact / row['n']:5.1f} %{right:>9} {100 * right / row['n']:5.1f} %"
