"""Tables of corpora: a header that names the columns, and a row an utterance.

A row that does not fit its header is never cut to fit: it is yielded with a problem, and is rejected with it.
"""

import csv
import itertools
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ko_asr.corpora.layout import read_lines
from ko_asr.errors import UserError

_MOST_LINES = 100  # of one CSV cell: more is a quotation mark that was never closed

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a huge cell is one bad row (text_of), not the end


class Row(NamedTuple):
    """Row of a table: its line number, its cells by column, and the problem when they do not fit."""

    number: int
    cells: dict[str, str]
    problem: str = ""


def read_table(path: Path, columns: Sequence[str] | None = None, delimiter: str = "\t") -> Iterator[Row]:
    """Yield the rows of a table without quoting; its first line names ``columns`` if None.

    Common Voice, FLEURS and most hand-made tables hold bare quotation marks, which a CSV reader would take
    for quoting and swallow lines with. Raises UserError for a column that is named twice.
    """
    records = ((number, line.split(delimiter), "") for number, line in read_lines(path))
    return _rows(path, records, columns)


def read_csv(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file, whose cells may be quoted (RFC 4180); line breaks in them become spaces.

    A row with broken quoting is one row with a problem, not the end of the table nor of the rows below it.
    """
    return _rows(path, _csv_records(read_lines(path)), None)


def _rows(
    path: Path, records: Iterable[tuple[int, list[str], str]], columns: Sequence[str] | None
) -> Iterator[Row]:
    for number, cells, problem in records:
        if columns is None:
            columns = [cell.strip() for cell in cells]
            _check_header(path, columns)
            continue
        if len(cells) > len(columns):
            problem = f"row with too many cells ({len(cells)} under {len(columns)} columns; quote the text)"
        yield Row(number, dict(zip(columns, cells, strict=False)), problem)


def _check_header(path: Path, columns: Sequence[str]) -> None:
    twice = [name for name, count in Counter(filter(None, columns)).items() if count > 1]
    if twice:
        raise UserError(f"{path} names the column {twice[0]} twice: rename one of them")


def _csv_records(numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str], str]]:
    """Yield (line number, cells, problem); a record that cannot be parsed costs its first line only."""
    waiting: deque[tuple[int, str]] = deque()

    def lines() -> Iterator[tuple[int, str]]:
        while line := waiting.popleft() if waiting else next(numbered, None):
            yield line

    for first in lines():
        taken: list[tuple[int, str]] = []

        def more(first=first, taken=taken) -> Iterator[str]:
            for line in itertools.islice(itertools.chain([first], lines()), _MOST_LINES):
                taken.append(line)
                yield line[1] + "\n"

        try:
            cells = next(csv.reader(more(), strict=True))
        except csv.Error as error:
            waiting.extendleft(reversed(taken[1:]))
            yield first[0], [], f"row with broken quotation marks ({error})"
        else:
            yield first[0], [cell.replace("\n", " ") for cell in cells], ""
