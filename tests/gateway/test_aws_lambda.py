"""The Lambda function, called with events in the shapes that AWS documents."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_process import PYTHON, GatewayProcess

PATH = "/v1/audio/transcriptions"
SOURCE = "203.0.113.7"


def request(file: bytes, **fields: str) -> httpx.Request:
    files = {"file": ("a.flac", file)}
    made = httpx.Request("POST", f"https://speech.example{PATH}", data=fields, files=files)
    made.read()
    return made


def function_url(request: httpx.Request) -> dict[str, Any]:
    """Payload format 2.0: a function URL, or with another domain and stage an HTTP API."""
    http = {
        "method": request.method,
        "path": request.url.path,
        "protocol": "HTTP/1.1",
        "sourceIp": SOURCE,
        "userAgent": "curl/8.9.1",
    }
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.url.path,
        "rawQueryString": request.url.query.decode(),
        "headers": {**request.headers, "x-forwarded-proto": "https", "x-forwarded-port": "443"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "k7xq2",
            "domainName": "k7xq2.lambda-url.ap-northeast-2.on.aws",
            "domainPrefix": "k7xq2",
            "http": http,
            "requestId": "f0c7e2c9-0000-4000-8000-000000000000",
            "routeKey": "$default",
            "stage": "$default",
            "time": "30/Nov/2026:09:00:00 +0000",
            "timeEpoch": 1796029200000,
        },
        "isBase64Encoded": bool(request.content),
    }
    return event | ({"body": base64.b64encode(request.content).decode()} if request.content else {})


def http_api(request: httpx.Request) -> dict[str, Any]:
    event = function_url(request)
    event["routeKey"] = event["requestContext"]["routeKey"] = f"{request.method} /{{proxy+}}"
    event["requestContext"] |= {"accountId": "123456789012", "domainName": "k7xq2.execute-api.amazonaws.com"}
    return event | {"pathParameters": {"proxy": request.url.path.removeprefix("/")}}


def rest_api(request: httpx.Request) -> dict[str, Any]:
    """Payload format 1.0."""
    return {
        "resource": "/{proxy+}",
        "path": request.url.path,
        "httpMethod": request.method,
        "headers": dict(request.headers),
        "multiValueHeaders": {name: [value] for name, value in request.headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": request.url.path.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": request.method,
            "path": f"/prod{request.url.path}",
            "protocol": "HTTP/1.1",
            "stage": "prod",
            "identity": {"sourceIp": SOURCE, "userAgent": "curl/8.9.1"},
            "requestId": "c6af9ac6-0000-4000-8000-000000000000",
        },
        "body": base64.b64encode(request.content).decode(),
        "isBase64Encoded": True,
    }


def load_balancer(request: httpx.Request) -> dict[str, Any]:
    group = "arn:aws:elasticloadbalancing:ap-northeast-2:123456789012:targetgroup/ko-asr/49e9d65c45c6791a"
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": request.method,
        "path": request.url.path,
        "queryStringParameters": {},
        "headers": {**request.headers, "x-forwarded-for": SOURCE, "x-forwarded-proto": "https"},
        "body": base64.b64encode(request.content).decode(),
        "isBase64Encoded": True,
    }


EVENTS = (function_url, http_api, rest_api, load_balancer)


@pytest.fixture(scope="module")
def answers(both_models: Path, files: list[Path], tmp_path_factory) -> list[dict[str, Any]]:
    """The answers of one function to a file in each shape, and to some more requests."""
    clip = files[0].read_bytes()
    events = [event(request(clip, model="asr")) for event in EVENTS]
    events += [
        function_url(request(clip, model="asr", response_format="srt")),
        function_url(request(clip, model="gpt-nix")),
        function_url(request(bytes(5 << 20), model="asr")),
        function_url(httpx.Request("GET", "https://speech.example/health/ready")),
        function_url(request(clip, model="asr", stream="true")),
    ]
    folder = tmp_path_factory.mktemp("lambda")
    options = {"KO_ASR_GATEWAY_OPTIONS": f"--repository '{both_models}' --folder '{folder}'"}
    script = Path(__file__).with_name("lambda_events.py")
    done = subprocess.run(
        [PYTHON, script],
        input=json.dumps(events),
        capture_output=True,
        encoding="utf-8",
        env=os.environ | options,
        timeout=120,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("*/*/*"))
    return json.loads(done.stdout)


def text(answer: dict[str, Any]) -> str:
    body = answer["body"]
    return base64.b64decode(body).decode() if answer["isBase64Encoded"] else body


def test_a_file_in_every_shape(answers, gateway: GatewayProcess, files: list[Path]) -> None:
    wanted = gateway.text(files[0])
    for answer in answers[: len(EVENTS)]:
        assert answer["statusCode"] == 200 and not answer["isBase64Encoded"]
        assert json.loads(answer["body"])["text"] == wanted
        assert answer["headers"]["x-request-id"].startswith("req_")


def test_other_answers(answers, gateway: GatewayProcess, files: list[Path]) -> None:
    srt, unknown, large, ready, stream = answers[len(EVENTS) :]
    assert gateway.text(files[0]) in " ".join(text(srt).split()) and "-->" in text(srt)
    assert srt["headers"]["content-type"].startswith("application/x-subrip") and not srt["isBase64Encoded"]
    assert unknown["statusCode"] == 404
    assert json.loads(unknown["body"])["error"]["code"] == "model_not_found"
    assert large["statusCode"] == 413
    assert ready["statusCode"] == 200
    events = [json.loads(line.removeprefix("data: ")) for line in text(stream).splitlines() if line]
    assert events[-1]["type"] == "transcript.text.done" and events[-1]["text"] == gateway.text(files[0])
