"""Errors that end in one sentence on standard error and a non-zero exit status, never in a traceback."""

import contextlib
import sys
from collections.abc import Callable, Iterator


class UserError(Exception):
    """Error that the user can mend. The message is one sentence: what, where, and what to do."""


class SaidByFirstProcess(SystemExit):
    """Exit of a process whose run stops, in every process, for a reason that the first one says."""

    def __init__(self) -> None:
        super().__init__(2)


def printable(text: object) -> str:
    """``text`` with the bytes of a file name that are no UTF-8 (Python's surrogates) as \\xNN.

    Such a name is opened as it is, but cannot be printed or written as UTF-8.
    """
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn what goes wrong in the block into one sentence and an exit: 2, or 130 on Ctrl-C.

    OSError (no space, no permission, no such file) is the user's to mend as well; its text already
    names the file.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {printable(error.strerror or error)}{printable(where)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit with its status (None is 0), or as ``exit_on_error`` says."""
    with exit_on_error():
        sys.exit(main() or 0)
