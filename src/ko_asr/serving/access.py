"""What clients of a Triton server may do: ask for recognition, and for what they must know to ask.

Triton lets any client do everything unless its services are restricted to those who know a key. Standard
library only, because `export/closed_server.py` runs this inside NVIDIA's container.
"""

import secrets
from collections.abc import Sequence

# Services that no client of this project needs: to register shared memory, to load and unload models, to
# trace, to set the log. Health, metadata, the configurations of models, inference and statistics stay open.
RESTRICTED = ("shared-memory", "model-repository", "trace", "logging")
RESTRICTING_OPTIONS = ("--grpc-restricted-protocol", "--http-restricted-api")
KEY_NAME = "ko-asr-key"


def closed_to_clients(arguments: Sequence[str]) -> list[str]:
    """tritonserver's ``arguments``, and options that shut clients out of what recognition does not need.

    The key is drawn anew and told to nobody. HTTP is off, because Triton 2.51 dies of requests that its HTTP
    server cannot parse. An option in ``arguments`` stands instead of ours.
    """
    given = {argument.partition("=")[0] for argument in arguments}
    added = [] if "--allow-http" in given else ["--allow-http=false"]
    for option in RESTRICTING_OPTIONS:
        if option not in given:
            added.append(f"{option}={','.join(RESTRICTED)}:{KEY_NAME}={secrets.token_hex(16)}")
    return [*arguments, *added]
