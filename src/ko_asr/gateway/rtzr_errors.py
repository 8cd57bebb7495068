"""Refusals in RTZR's shape: {"code": "H0001", "msg": sentence}."""

PREFIX = "/rtzr"

_BY_CODE = {
    "file_too_large": "H0005",
    "audio_too_long": "H0006",
    "unknown_format": "H0010",
    "invalid_audio": "H0010",
    "insufficient_quota": "A0001",
    "polling": "A0003",
}
_BY_STATUS = {
    401: "H0002",
    403: "H0003",
    404: "H0004",
    410: "H0007",
    413: "H0005",
    415: "H0010",
    429: "A0002",  # too much at a time
}
_PARAMETER, _SERVER = "H0001", "E500"


def is_rtzr(path: str) -> bool:
    """True for the path of a route of this API."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def body(status: int, message: str, code: str | None) -> dict[str, str]:
    """The JSON of a refusal with HTTP ``status``; ``code`` is that of the ApiError.

    >>> body(404, "there is no such transcription", None)
    {'code': 'H0004', 'msg': 'there is no such transcription'}
    """
    found = _BY_CODE.get(code or "") or _BY_STATUS.get(status) or (_SERVER if status >= 500 else _PARAMETER)
    return {"code": found, "msg": message}
