"""Count the texts that differ between what the gateway answers on each of its routes and what gRPC answers.

    python bench/gateway_texts.py --manifest data/demo/eval_clean.jsonl data/demo/eval_other.jsonl

Every utterance goes through every route, in front of Triton and with the embedded engine. Files are compared
with `AsrClient`, live speech with `StreamingClient` under the same end-point rules.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import websockets
from gateway import start_gateway

from ko_asr.audio.read import read_audio
from ko_asr.client.offline import AsrClient
from ko_asr.client.streaming import StreamingClient
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
RATE, PACKET = 16_000, 3200
SPOKEN = ("use_itn", "use_disfluency_filter", "use_paragraph_splitter")  # off, RTZR's text is as gRPC's
Ask = Callable[[str, Path], str]  # the text of a file from the gateway at an address


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repository", type=Path, default=ROOT / "triton", help="a model repository (default triton/)")
    add("--manifest", type=Path, nargs="+", required=True, help="utterances")
    add("--out", type=Path, default=ROOT / "bench/results/gateway_texts.json", help="the counts, as JSON")
    return parser.parse_args()


def form(url: str, path: str, file: str, audio: Path, **fields: str) -> httpx.Response:
    """Send ``audio`` in the field ``file``."""
    with audio.open("rb") as opened:
        return httpx.post(f"{url}{path}", data=fields, files={file: opened}, timeout=60).raise_for_status()


def transcription(url: str, audio: Path) -> str:
    """OpenAI's route."""
    return form(url, "/v1/audio/transcriptions", "file", audio, model="asr").json()["text"]


def words(url: str, audio: Path) -> str:
    """The words of OpenAI's verbose answer."""
    fields = {"model": "asr", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = form(url, "/v1/audio/transcriptions", "file", audio, **fields).json()
    return " ".join(word["word"] for word in answer["words"])


def events(url: str, audio: Path) -> str:
    """OpenAI's server-sent events."""
    body = form(url, "/v1/audio/transcriptions", "file", audio, model="asr", stream="true").text
    found = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    return "".join(event.get("delta", "") for event in found)


def plain(url: str, audio: Path) -> str:
    """The plain route."""
    return form(url, "/v1/transcribe", "audio", audio).json()["text"]


def ended(url: str, path: str) -> dict:
    """The answer at ``path``, once it has ended. UserError when it failed."""
    while (answer := httpx.get(f"{url}{path}").raise_for_status().json())["status"] != "completed":
        if answer["status"] == "failed":
            raise UserError(f"{path} failed: {answer['error']}")
        time.sleep(0.05)
    return answer


def job(url: str, audio: Path) -> str:
    """A job."""
    name = form(url, "/v1/jobs", "file", audio).json()["id"]
    ended(url, f"/v1/jobs/{name}")
    return httpx.get(f"{url}/v1/jobs/{name}/result").json()["text"]


def rtzr_file(url: str, audio: Path) -> str:
    """RTZR's transcription of files."""
    config = json.dumps(dict.fromkeys(SPOKEN, False))
    name = form(url, "/rtzr/v1/transcribe", "file", audio, config=config).json()["id"]
    results = ended(url, f"/rtzr/v1/transcribe/{name}")["results"]
    return " ".join(utterance["msg"] for utterance in results["utterances"])


def rtzr_stream(url: str, audio: Path) -> str:
    """RTZR's streaming."""
    return asyncio.run(_rtzr_stream(url, audio))


async def _rtzr_stream(url: str, audio: Path) -> str:
    query = f"sample_rate={RATE}&encoding=LINEAR16&use_itn=false"
    async with websockets.connect(f"ws{url[4:]}/rtzr/v1/transcribe:streaming?{query}") as socket:
        data = samples(audio).tobytes()
        for at in range(0, len(data), PACKET):
            await socket.send(data[at : at + PACKET])
        await socket.send("EOS")
        answers = [json.loads(message) async for message in socket]
    return " ".join(answer["alternatives"][0]["text"] for answer in answers if answer["final"]).strip()


def samples(audio: Path) -> np.ndarray:
    """16-bit samples, as telephones and browsers send them."""
    return (np.clip(read_audio(audio), -1, 1) * 32767).astype("<i2")


def over_grpc(client: StreamingClient, audio: Path) -> str:
    """The same samples through the library's client."""
    with client.open() as stream:
        results = stream.send(samples(audio).astype(np.float32) / 32768) + stream.finish()
    return " ".join(result.text for result in results if result.is_final and result.text)


FILES: dict[str, Ask] = {
    "POST /v1/audio/transcriptions": transcription,
    "its words": words,
    "its events": events,
    "POST /v1/transcribe": plain,
    "POST /v1/jobs": job,
    "POST /rtzr/v1/transcribe": rtzr_file,
}
STREAMS: dict[str, Ask] = {"WS /rtzr/v1/transcribe:streaming": rtzr_stream}


def count(asks: dict[str, Ask], url: str, files: list[Path], wanted: list[str]) -> dict[str, str]:
    """How many texts of each route are the wanted ones."""
    found = {}
    with ThreadPoolExecutor(8) as pool:
        for name, ask in asks.items():
            texts = list(pool.map(lambda path, ask=ask: ask(url, path), files))
            found[name] = f"{sum(map(str.__eq__, wanted, texts))} of {len(files)}"
            print(f"{name:>34}  {found[name]}", flush=True)
    return found


def main() -> None:
    args = parse()
    files = [Path(entry["audio_filepath"]) for path in args.manifest for entry in read_manifest(path)]
    embedded = ["--engine", "embedded", "--repository", str(args.repository)]
    report: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder, TritonServer(args.repository, ROOT / ".server") as server:
        with AsrClient(server.url) as client:
            texts = [client.transcribe(read_audio(path)).text for path in files]
        with StreamingClient(server.url) as streaming:
            spoken = [over_grpc(streaming, path) for path in files]
        for engine, options in (("triton", ["--triton", server.url]), ("embedded", embedded)):
            print(f"-- {engine}")
            process, url = start_gateway([*options, "--job-workers", "4"], Path(folder) / engine)
            try:
                report[engine] = count(FILES, url, files, texts) | count(STREAMS, url, files, spoken)
            finally:
                process.terminate()
                process.wait()
    report |= provenance(["fastapi", "uvicorn", "websockets", "tritonclient", "numpy"])
    with atomic_write(args.out) as stream:
        json.dump(report, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
