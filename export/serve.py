"""Serve the exported models, and start the server again when it or one of its model processes has died.

    python export/serve.py --model-repository triton/ [any option of tritonserver]

Every two seconds the server's processes are looked at and each ensemble is asked for an inference; a server
that is late but works is left alone. Clients of ko_asr resume their streams by themselves. At SIGTERM and
Ctrl-C Triton answers what it has not finished with UNAVAILABLE ("Server is stopping"), and ends within 15 s.

Clients may infer and ask for health, configurations and statistics; all else needs a key that nobody is told.
HTTP is off without --allow-http=true.
"""

import sys
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.serving.access import closed_to_clients
from ko_asr.serving.supervisor import Supervisor


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 2
    command = Path(sys.executable).parent / "tritonserver"
    if not command.is_file():
        raise UserError(f"no {command}: install it with python export/setup_server.py")
    return Supervisor(command, closed_to_clients(arguments)).run()


if __name__ == "__main__":
    run_main(main)
