"""OpenAI's API, spoken by OpenAI's own client and by curl."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from ko_asr.audio.read import read_audio
from ko_asr.client.offline import AsrClient


def test_texts_are_those_of_the_grpc_client(demo, gateway, files: list[Path]) -> None:
    with AsrClient(demo.url) as client:
        wanted = [client.transcribe(read_audio(file)).text for file in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(gateway.text, files)) == wanted
    assert sum(map(bool, wanted)) > 35
    gateway.wait_until_empty()


def test_verbose_json_has_word_and_segment_times(demo, gateway, files: list[Path]) -> None:
    audio = read_audio(files[0])
    with AsrClient(demo.url) as client:
        wanted = client.transcribe(audio, words=True)
    with files[0].open("rb") as file:
        found = gateway.sdk.audio.transcriptions.create(
            model="whisper-1",
            file=file,
            language="ko",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert (found.text, found.language) == (wanted.text, "korean")
    assert float(found.duration) == pytest.approx(len(audio) / 16_000, abs=1e-3)
    assert found.usage.seconds == float(found.duration)
    times = [(word.word, round(1000 * word.start), round(1000 * word.end)) for word in found.words]
    assert times == [(word["text"], word["start_ms"], word["end_ms"]) for word in wanted.words]
    sure = [word.confidence for word in found.words]  # a field of ours, which the SDK keeps
    assert sure == pytest.approx([word["confidence"] for word in wanted.words], abs=1e-3)
    assert " ".join(segment.text for segment in found.segments) == found.text
    first = found.segments[0]
    assert (first.start, first.id, first.tokens) == (found.words[0].start, 0, [])
    assert first.avg_logprob < 0 < first.compression_ratio


def test_granularities_choose_what_is_told(gateway, files: list[Path]) -> None:
    def keys(*granularities: str) -> set[str]:
        data = {"model": "asr", "response_format": "verbose_json"}
        form = {**data, "timestamp_granularities[]": list(granularities)}
        return set(gateway.post(data=form, files={"file": files[0].read_bytes()}).json())

    assert {"words"} == keys("word", "segment") - keys()
    assert {"words"} == keys("word") - keys() and {"segments"} == keys() - keys("word")


def test_plain_formats(gateway, files: list[Path]) -> None:
    def answer(kind: str) -> str:
        with files[1].open("rb") as file:
            return gateway.sdk.audio.transcriptions.create(model="asr", file=file, response_format=kind)

    text = gateway.text(files[1])
    assert answer("text").strip() == text
    assert answer("vtt").startswith("WEBVTT\n\n00:00:0")
    cue = re.fullmatch(r"1\n(00:00:0\d,\d{3}) --> (00:00:0\d,\d{3})\n(.+)\n\n", answer("srt"), re.DOTALL)
    assert cue and cue[3].split() == text.split() and cue[1] < cue[2]


def test_a_stream_adds_up_to_its_text(gateway, files: list[Path]) -> None:
    with files[2].open("rb") as file:
        events = list(gateway.sdk.audio.transcriptions.create(model="asr", file=file, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0].delta == events[1].text == gateway.text(files[2])
    gateway.wait_until_empty()


def test_models(gateway) -> None:
    assert [model.id for model in gateway.sdk.models.list()] == ["asr", "whisper-1"]
    assert gateway.sdk.models.retrieve("whisper-1").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.sdk.models.retrieve("gpt-transcribe")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"language": "en"}, "language", "unsupported_language"),
        ({"response_format": "diarized_json"}, "response_format", None),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", None),
        ({"response_format": "srt", "stream": True}, "response_format", None),
        ({"include": ["logprobs"]}, "include", "unsupported_parameter"),
        ({"extra_body": {"keywords": ["철수:9"]}}, "keywords", "invalid_keyword"),
        ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy", "unsupported_parameter"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(gateway, files, options, param, code) -> None:
    with files[0].open("rb") as file, pytest.raises(openai.BadRequestError) as caught:
        gateway.sdk.audio.transcriptions.create(model="asr", file=file, **options)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error" and caught.value.request_id.startswith("req_")


def test_hints_change_nothing(gateway, files: list[Path]) -> None:
    with files[0].open("rb") as file:
        found = gateway.sdk.audio.transcriptions.create(
            model="asr", file=file, prompt="gpt, 2026", temperature=0.5, chunking_strategy="auto"
        )
    assert found.text == gateway.text(files[0])


def test_an_unknown_model_is_not_found(gateway, files: list[Path]) -> None:
    with files[0].open("rb") as file, pytest.raises(openai.NotFoundError, match="has asr, whisper-1"):
        gateway.sdk.audio.transcriptions.create(model="whisper-2", file=file)


def test_every_refusal_has_the_shape(gateway, files: list[Path]) -> None:
    audio, model = {"file": files[0].read_bytes()}, {"model": "asr"}
    assert gateway.error(400, files={"model": (None, "asr")})["param"] == "file"
    assert gateway.error(415, data=model)["param"] == "file"
    assert gateway.error(400, files=audio)["param"] == "model"
    assert gateway.error(400, data={"model": ["asr", "asr"]}, files=audio)["param"] == "model"
    assert gateway.error(400, data={**model, "file": "speech.wav"}, files={"other": b"1"})["param"] == "file"
    assert gateway.error(415, json=model)["param"] == "file"
    gateway.error(415)
    gateway.error(404, path="/v1/audio/translations", files=audio)
    gateway.error(405, path="/v1/models")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    gateway.error(400, content=b"--x\r\nnot a form", headers=broken)
    endless = {"content-type": f"multipart/form-data; boundary={'x' * 5000}"}
    gateway.error(400, content=b"", headers=endless)
    whole = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nasr'
    assert "breaks off" in gateway.error(400, content=whole, headers=broken)["message"]


def test_curl_and_the_plain_route(gateway, files: list[Path]) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on this machine")
    command = [curl, "-s", f"{gateway.url}/v1/audio/transcriptions", "-F", f"file=@{files[3]}"]
    done = subprocess.run(
        [*command, "-F", "model=asr", "-F", "response_format=text"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == gateway.text(files[3])
    answer = gateway.post("/v1/transcribe", files={"audio": files[3].read_bytes()})
    body = answer.json()
    assert set(body) == {"text", "confidence", "processing_time_ms"} and body["processing_time_ms"] > 0
    assert body["text"] == gateway.text(files[3]) and 0 < body["confidence"] <= 1
    assert gateway.error(400, path="/v1/transcribe", files={"file": b"1"})["param"] == "audio"
