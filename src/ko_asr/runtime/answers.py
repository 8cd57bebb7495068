"""Answers of a Python model of Triton, each request's for itself.

Triton hands a model the requests of many clients at once. An exception that leaves ``execute`` fails all of
them, and shows each client a traceback with the server's paths. Here what is wrong with one request is
answered to that one, in a sentence: INVALID_ARGUMENT where the client can mend it (UserError), INTERNAL where
it cannot; then the server's log has the traceback. ``pb_utils`` is Triton's module of that name, which exists
inside a server only.
"""

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.runtime import failure
from ko_asr.runtime.failure import Failed, Failure

OURS = "something went wrong in this server, and its log says what: send the request, or the stream, again"
_CODES = {failure.INVALID: "INVALID_ARG", failure.FULL: "UNAVAILABLE", failure.INTERNAL: "INTERNAL"}


def answer_each(pb_utils: Any, requests: Iterable[Any], answer: Callable[[Any], Any]) -> list[Any]:
    """The response of ``answer`` to each request; what it raises becomes the response to that request."""
    responses = []
    for request in requests:
        try:
            responses.append(answer(request))
        except Exception as error:
            responses.append(_refusal(pb_utils, failure_of(pb_utils, error)))
    return responses


def failure_of(pb_utils: Any, error: Exception) -> Failure:
    """The failure that a client hears of ``error``; what nobody foresaw goes to the server's log."""
    if isinstance(error, Failed):
        return error.failure
    if isinstance(error, UserError):
        return Failure(failure.INVALID, str(error))
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return Failure(failure.INTERNAL, OURS)


def _refusal(pb_utils: Any, failed: Failure) -> Any:
    code = getattr(pb_utils.TritonError, _CODES[failed.code])
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(failed.sentence, code))


def response(pb_utils: Any, outputs: dict[str, np.ndarray]) -> Any:
    """The response that holds ``outputs``."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(*output) for output in outputs.items()])
