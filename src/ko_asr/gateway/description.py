"""What the OpenAPI page says of routes whose forms and answers are read and made by hand."""

from typing import Any


def form_fields(*names: str) -> dict[str, Any]:
    """`openapi_extra` of a URL-encoded form of strings, all required."""
    schema = {
        "type": "object",
        "required": list(names),
        "properties": {name: {"type": "string"} for name in names},
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/x-www-form-urlencoded": {"schema": schema}},
        }
    }
