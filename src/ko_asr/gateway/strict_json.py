"""JSON of strangers, of which everything can be written again: to a database, and back to them."""

import json
from typing import Any


def read_json(text: str) -> Any:
    r"""The value of ``text``. ValueError for what is no JSON, too deep, or half a character ("\ud800")."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if "\\u" in text and not is_writable(found):
        raise ValueError("half a character")
    return found


def is_writable(value: Any) -> bool:
    """True where ``value``, of JSON, is whole characters throughout."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
