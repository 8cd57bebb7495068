"""Failures between the steps of the streaming ensemble, and the errors that a client makes of them."""

import pytest

from ko_asr.client.connection import (
    AnswerTimeout,
    RequestRefused,
    ServerError,
    ServerUnavailable,
    StreamsFull,
    server_error,
)
from ko_asr.errors import UserError
from ko_asr.runtime import failure

URL = "gpu-box:8001"


class InferenceError(Exception):
    """An InferenceServerException as tritonclient's: a gRPC status and a message."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self._status, self._message = status, message

    def status(self) -> str:
        return f"StatusCode.{self._status}"

    def message(self) -> str:
        return self._message


@pytest.mark.parametrize(
    "failed", [failure.no_room(128), failure.Failure(failure.INVALID, "문장은 그대로 간다: 1"), None]
)
def test_a_failure_survives_the_way_to_the_decoder(failed: failure.Failure | None) -> None:
    assert failure.parse(failure.dump(failed)) == failed


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(UserError, match="unknown failure code 'LATE'"):
        failure.parse("LATE for the train")


# What servers of every version answer: old clients look for these words.
@pytest.mark.parametrize("prefix", ["", "in ensemble 'asr_streaming_1', ", "[request id: 7] "])
def test_a_full_server_is_told_from_one_that_is_gone(prefix: str) -> None:
    message = f"{prefix}all 128 streams of this server are taken; try again later"
    found = server_error(InferenceError("UNAVAILABLE", message), URL, 10.0, "asr_streaming")
    assert type(found) is StreamsFull and found.code == "UNAVAILABLE"
    assert str(found) == (
        "UNAVAILABLE: gpu-box:8001 refuses another stream: "
        "all 128 streams of this server are taken; try again later"
    )
    assert failure.is_full(message) and failure.no_room(128).sentence in message


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        ("UNAVAILABLE", ServerUnavailable, "no server answers at gpu-box:8001"),
        ("DEADLINE_EXCEEDED", AnswerTimeout, "no answer from gpu-box:8001 within 10 s"),
        ("INVALID_ARGUMENT", RequestRefused, "INVALID_ARGUMENT: a stream is one"),
        ("INTERNAL", ServerError, "INTERNAL: a stream is one"),
    ],
)
def test_every_kind_of_error_is_a_class(status: str, kind: type[ServerError], words: str) -> None:
    error = InferenceError(status, "in ensemble 'asr_streaming', a stream is one")
    found = server_error(error, URL, 10.0, "asr_streaming")
    assert type(found) is kind and found.code == status and words in str(found)
