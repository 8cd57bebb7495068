"""Become tritonserver, closed to clients for all but recognition, as in `make serve`.

    python3 export/closed_server.py tritonserver --model-repository=/models [any option of tritonserver]

The serving container runs this. Shared memory, model control, tracing and the log need a key that nobody is
told, and HTTP is off without --allow-http=true. Standard library only.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))

from ko_asr.serving.access import closed_to_clients


def main() -> int:
    command = sys.argv[1:]
    if not command or {"-h", "--help"} & set(command):
        print(__doc__)
        return 0 if command else 2
    os.execvp(command[0], [command[0], *closed_to_clients(command[1:])])


if __name__ == "__main__":
    sys.exit(main())
