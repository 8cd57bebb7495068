"""The description at /openapi.json, and schemathesis, which believes it and tries what it says."""

from pathlib import Path

import httpx
from gateway_schemathesis import schemathesis

_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)


def test_routes_say_what_they_take_and_answer(gateway) -> None:
    description = httpx.get(f"{gateway.url}/openapi.json").json()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["tags"][0] in {tag["name"] for tag in description["tags"]}, where
            assert operation["summary"].endswith("."), where
            assert "HTTPValidationError" not in str(operation), where
            assert "requestBody" in operation or method != "post", where
            for status, answer in operation["responses"].items():
                assert status == "204" or all("schema" in body for body in answer["content"].values()), where
                assert status == "204" or {"schema": {}} not in answer["content"].values(), (where, status)
    form = description["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    fields = form["multipart/form-data"]["schema"]["properties"]
    assert fields["file"]["format"] == "binary" and "timestamp_granularities[]" in fields


def test_schemathesis(gateway, tmp_path: Path) -> None:
    schemathesis(gateway, tmp_path, *_CHECKS)
    gateway.wait_until_empty()
