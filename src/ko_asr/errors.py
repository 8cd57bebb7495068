"""Bad input ends in one sentence on standard error and a non-zero exit status, never in a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what, where, and what to do."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit: 0, its own status, 2 on UserError or a system error, 130 on Ctrl-C.

    OSError (no space, no permission, no such file) is the user's to mend as well; its text already
    names the file.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
