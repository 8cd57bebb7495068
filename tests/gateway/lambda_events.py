"""What Lambda's runtime does: calls the handler with events, one after the other (JSON lists in and out)."""

import json
import sys
from types import SimpleNamespace


def main() -> None:
    from ko_asr.gateway.aws_lambda import handler

    context = SimpleNamespace(aws_request_id="1", function_name="ko-asr", memory_limit_in_mb=2048)
    answers = [handler(event, context) for event in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
