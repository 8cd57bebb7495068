"""The written form on every route: fields, the server's default, RTZR's switches, and live speech."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from gateway_live import (
    TRANSCRIPTION,
    append,
    configure,
    conversation,
    events_until,
    finals,
    linear16,
    packets,
    rtzr,
    rtzr_address,
)
from gateway_process import GatewayProcess
from starlette.datastructures import QueryParams

from ko_asr import FinishOptions, finish
from ko_asr.data.manifest import read_manifest
from ko_asr.gateway.api.rtzr.stream_options import read_query
from ko_asr.gateway.api.rtzr.transcribe_options import read_config
from ko_asr.gateway.api.rtzr.written import finished_by
from ko_asr.gateway.written.forms import SECTION, as_written, divided, sections, words_of
from ko_asr.runtime.results import Result, Word

WITHOUT_KIWI = pytest.mark.skipif(
    next((Path(__file__).parents[2] / ".gateway").glob("lib/python*/site-packages/kiwipiepy"), None)
    is not None,
    reason="Kiwi is installed in .gateway: make setup-kiwi was run",
)

WHERE = "session.audio.input.transcription.written"
COMPLETED, DELTA = f"{TRANSCRIPTION}.completed", f"{TRANSCRIPTION}.delta"
OFF = {"use_itn": False, "use_disfluency_filter": False, "use_paragraph_splitter": False}
TERMS = {
    "콩국을": "콩국수 한 그릇을",
    "낫을": "Sickle을",
    "국수를": "잔치국수를",
}  # what the demo's numbers are said with
PLAIN = FinishOptions(analyzer="rules", terms=TERMS)
MARKS = replace(PLAIN, punctuation=True)  # the gateway's environment has no Kiwi
WRITTEN = json.dumps({"terms": TERMS})
MARKED = json.dumps({"terms": TERMS, "punctuation": True})


@pytest.fixture(scope="module")
def numbers(demo) -> list[Path]:
    """Utterances with a number each."""
    entries = read_manifest(demo.manifests["eval_clean"])
    found = [Path(entry["audio_filepath"]) for entry in entries if re.search("[0-9]", entry["text"])]
    assert len(found) == 3
    return found


@pytest.fixture(scope="module")
def writing(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway whose default is the written form, with terms and marks."""
    folder = tmp_path_factory.mktemp("writing")
    terms = folder / "terms.txt"
    terms.write_text("".join(f"{spoken} -> {written}\n" for spoken, written in TERMS.items()), "utf-8")
    options = ("--terms", str(terms), "--punctuation", "--job-poll", "0.1")
    with GatewayProcess(asr_server, folder / "g", *options) as running:
        yield running


@pytest.fixture(scope="module")
def talk(numbers: list[Path]) -> np.ndarray:
    return conversation(numbers)


@pytest.fixture(scope="module")
def long(talk: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections and more."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(talk, 45), 16_000, subtype="PCM_16")
    return path


def plain(gateway: GatewayProcess, path: Path, **fields: str) -> dict:
    answer = gateway.post("/v1/transcribe", data=fields, files={"audio": path.read_bytes()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def openai(gateway: GatewayProcess, path: Path, **fields: Any) -> httpx.Response:
    answer = gateway.post(data={"model": "asr", **fields}, files={"file": ("a", path.read_bytes())})
    assert answer.status_code == 200, answer.text
    return answer


def events(gateway: GatewayProcess, path: Path, **fields: str) -> list[dict]:
    body = openai(gateway, path, stream="true", **fields).text
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]


def test_a_field_asks_for_both_forms(gateway: GatewayProcess, numbers: list[Path]) -> None:
    for path in numbers:
        spoken = plain(gateway, path)
        assert "written" not in spoken and plain(gateway, path, written="false").keys() == spoken.keys()
        assert plain(gateway, path, written="true")["written"] == finish(spoken["text"]).text
        written = plain(gateway, path, written=WRITTEN)
        assert (written["text"], written["written"]) == (spoken["text"], finish(spoken["text"], PLAIN).text)
        assert written["written"] != spoken["text"]
        assert plain(gateway, path, written=MARKED)["written"] == finish(spoken["text"], MARKS).text


def test_openai_answers_have_both(gateway: GatewayProcess, numbers: list[Path]) -> None:
    with numbers[1].open("rb") as file:
        found = gateway.sdk.audio.transcriptions.create(model="asr", file=file, extra_body={"written": True})
    assert found.to_dict()["written"] == finish(found.text).text
    ask = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    both = openai(gateway, numbers[1], written=WRITTEN, **ask).json()
    assert " ".join(word["word"] for word in both["words"]) == both["text"] == found.text
    words = both["written_words"]
    assert " ".join(word["word"] for word in words) == both["written"] != both["text"]
    assert (words[0]["start"], words[-1]["end"]) == (both["words"][0]["start"], both["words"][-1]["end"])
    assert " ".join(segment["written"] for segment in both["segments"]) == both["written"]
    assert "written" not in openai(gateway, numbers[1], **ask).text


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
def test_what_has_room_for_one_form(gateway: GatewayProcess, numbers: list[Path], kind: str) -> None:
    spoken, written = (
        openai(gateway, numbers[1], response_format=kind, written=value).text for value in ("false", WRITTEN)
    )
    text = openai(gateway, numbers[1], written=WRITTEN).json()
    assert text["text"] != text["written"]
    assert " ".join(text["text"].split()) in " ".join(spoken.split())
    assert " ".join(text["written"].split()) in " ".join(written.split())


def test_a_server_may_write_for_clients_that_know_nothing_of_it(writing, gateway, numbers) -> None:
    for path in numbers:
        spoken = gateway.text(path)
        written = finish(spoken, MARKS)
        assert writing.text(path) == written.text
        assert plain(writing, path)["text"] == spoken, "the plain route has a field of its own"
        assert plain(writing, path, written="true")["written"] == written.text
        found = openai(writing, path, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
        assert [word["word"] for word in found.json()["words"]] == [word.text for word in written.words]
        assert "written" not in found.text
        told = events(writing, path)
        assert "".join(event.get("delta", "") for event in told) == told[-1]["text"] == written.text
        assert openai(writing, path, written="false").json()["text"] == spoken
        both = openai(writing, path, written='{"punctuation": false}').json()
        assert (both["text"], both["written"]) == (spoken, finish(spoken, PLAIN).text)


def test_long_audio_is_written_the_same_on_every_route(writing: GatewayProcess, long: Path) -> None:
    text = writing.text(long)
    told = events(writing, long)
    assert len(told) > 2 and "".join(event.get("delta", "") for event in told) == text
    ask = {"response_format": "verbose_json", "written": '{"punctuation": true}'}
    found = openai(writing, long, **ask, **{"timestamp_granularities[]": ["word", "segment"]}).json()
    assert found["written"] == text
    assert " ".join(word["word"] for word in found["written_words"]) == text
    assert " ".join(segment["written"] for segment in found["segments"] if segment["written"]) == text
    times = [(word["start"], word["end"]) for word in found["written_words"]]
    assert times == sorted(times) and times[-1][1] <= found["duration"]
    job = writing.job(long)
    writing.ended(job)
    assert writing.result(job).json()["text"] == text


def test_jobs_keep_what_was_asked(gateway: GatewayProcess, numbers: list[Path]) -> None:
    job = gateway.job(numbers[1], written=MARKED)
    gateway.ended(job)
    found = gateway.result(job).json()
    assert found["written"] == finish(found["text"], MARKS).text
    assert gateway.result(job, format="text").text == f"{found['written']}\n"


def test_channels_are_written_each(gateway: GatewayProcess, talk: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([talk, np.roll(talk, len(talk) // 2)], 1), 16_000)
    found = openai(gateway, path, channels="separate", written=WRITTEN).json()
    for channel in found["channels"]:
        assert channel["written"] == finish(channel["text"], PLAIN).text != channel["text"]
    assert sorted(found["written"].split()) == sorted(
        word for channel in found["channels"] for word in channel["written"].split()
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("yes", "no JSON"),
        ("[1]", "true or an object"),
        ("1", "true or an object"),
        ('{"intn": true}', "has no option 'intn'"),
        ('{"itn": "yes"}', "written.itn is true or false"),
        ('{"style": {"commas": "many"}}', "style commas is 'many'"),
        ('{"terms": {"가": ""}}', "empty side"),
        ('{"paragraph_max": 0}', "at least 1 word"),
        (json.dumps({"profanity": ["가" * 10_001]}), "more than 10,000 characters"),
        pytest.param('{"analyzer": "kiwi"}', "kiwipiepy is not installed", marks=WITHOUT_KIWI),
    ],
)
def test_what_is_refused(gateway: GatewayProcess, files: list[Path], value: str, says: str) -> None:
    for path, name in (
        ("/v1/transcribe", "audio"),
        ("/v1/audio/transcriptions", "file"),
        ("/v1/jobs", "file"),
    ):
        fields = {"model": "asr", "written": value}
        error = gateway.error(400, path=path, data=fields, files={name: files[0].read_bytes()})
        assert error["param"] == "written" and says in error["message"], error
        assert "\n" not in error["message"] and ".py" not in error["message"]


def test_a_field_in_pieces_is_refused(gateway: GatewayProcess, files: list[Path]) -> None:
    fields = {"model": "asr", "written[punctuation]": "true"}
    error = gateway.error(400, data=fields, files={"file": files[0].read_bytes()})
    assert error["param"] == "written" and "one field" in error["message"]


def rtzr_file(gateway: GatewayProcess, path: Path, **config) -> list[dict]:
    form = {"config": (None, json.dumps(config)), "file": ("a.wav", path.read_bytes())}
    job = gateway.post("/rtzr/v1/transcribe", files=form).json()["id"]
    gateway.ended(job)
    return httpx.get(f"{gateway.url}/rtzr/v1/transcribe/{job}").json()["results"]["utterances"]


def said(utterances: list[dict]) -> str:
    return " ".join(one["msg"] for one in utterances)


def test_rtzr_files_are_written_by_its_defaults(gateway: GatewayProcess, numbers, files) -> None:
    for path in [*numbers, *files[12:15]]:  # one of them with a filler
        spoken = gateway.text(path)
        default = FinishOptions(disfluency_filter=True, analyzer="rules")
        found = rtzr_file(gateway, path, use_word_timestamp=True)
        assert said(found) == finish(spoken, default).text
        for one in found:
            assert " ".join(word["text"] for word in one["words"]) == one["msg"]
            assert one["start_at"] == one["words"][0]["start_at"]
        assert said(rtzr_file(gateway, path, **OFF)) == spoken
        assert said(rtzr_file(gateway, path, **OFF, use_punctuation=True)) == (
            finish(spoken, replace(MARKS, itn=False, terms={})).text
        )


def test_rtzr_paragraphs(gateway: GatewayProcess, files: list[Path]) -> None:
    whole = rtzr_file(gateway, files[1], use_word_timestamp=True)
    assert len(whole) == 1 and "밝아요 그래서" in whole[0]["msg"]
    parts = rtzr_file(gateway, files[1], use_word_timestamp=True, paragraph_splitter={"max": 15})
    assert [one["msg"].split()[-1] for one in parts] == ["밝아요", "만나요"]
    assert [word for one in parts for word in one["words"]] == whole[0]["words"]
    assert len(rtzr_file(gateway, files[1], use_paragraph_splitter=False, paragraph_splitter={"max": 1})) == 1


@pytest.mark.parametrize("splitter", [{"max": 0}, {"max": "50"}, {"max": True}, 50])
def test_rtzr_paragraphs_that_are_refused(gateway: GatewayProcess, files: list[Path], splitter) -> None:
    form = {"config": (None, json.dumps({"paragraph_splitter": splitter})), "file": files[0].read_bytes()}
    answer = gateway.post("/rtzr/v1/transcribe", files=form)
    assert answer.status_code == 400 and "paragraph_splitter" in answer.json()["msg"]


def speak(gateway: GatewayProcess, talk: np.ndarray, **query) -> list[dict]:
    address = rtzr_address(gateway.url, sample_rate=16_000, encoding="LINEAR16", **query)
    answers, code, _ = asyncio.run(rtzr(address, [*packets(linear16(talk, 16_000), 3200), "EOS"]))
    assert code == 1000
    return answers


def test_rtzr_streams_are_written(writing: GatewayProcess, talk: np.ndarray) -> None:
    spoken = finals(speak(writing, talk, use_itn="false"))
    answers = speak(writing, talk)
    assert finals(answers) == [finish(text, PLAIN).text for text in spoken] != spoken
    for answer in answers:
        best = answer["alternatives"][0]
        if answer["final"]:
            assert " ".join(word["text"] for word in best["words"]) == best["text"]
            assert answer["start_at"] == best["words"][0]["start_at"]
            assert all(word["duration"] >= 0 for word in best["words"])
    marked = finals(speak(writing, talk, use_itn="false", use_punctuation="true"))
    assert marked == [finish(text, replace(MARKS, itn=False)).text for text in spoken]


def test_sessions_are_written(gateway: GatewayProcess, talk: np.ndarray) -> None:
    spoken = finals(speak(gateway, talk, use_itn="false"))
    with gateway.sdk.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert "written" not in json.dumps(connection.recv().to_dict())
        changed = configure(connection, transcription={"written": json.loads(MARKED)})
        assert changed.to_dict()["session"]["audio"]["input"]["transcription"]["written"]
        append(connection, linear16(np.concatenate([talk, np.zeros(16_000, np.float32)]), 24_000))
        told = events_until(connection, COMPLETED, len(spoken))
        transcripts = [event.transcript for event in told if event.type == COMPLETED]
        assert transcripts == [finish(text, MARKS).text for text in spoken]
        for event in told:
            if event.type == COMPLETED:
                deltas = [one.delta for one in told if one.type == DELTA and one.item_id == event.item_id]
                assert "".join(deltas) == event.transcript
        error = configure(connection, transcription={"written": {"intn": True}}).error
        assert error.param == WHERE and "no option 'intn'" in error.message


def test_a_secret_for_a_session_is_checked(gateway: GatewayProcess) -> None:
    def secret(written: object) -> httpx.Response:
        session = {"type": "transcription", "audio": {"input": {"transcription": {"written": written}}}}
        body, kind = json.dumps({"session": session}), {"content-type": "application/json"}
        return httpx.post(f"{gateway.url}/v1/realtime/client_secrets", content=body, headers=kind)

    assert secret({"punctuation": True}).status_code == 200
    for bad in ({"terms": {"가": "\ud800"}}, {"style": {"commas": "many"}}, [True]):
        answer = secret(bad)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].startswith((WHERE, "body")), answer.text


def test_a_writing_server_writes_in_sessions(writing: GatewayProcess, talk: np.ndarray) -> None:
    spoken = finals(speak(writing, talk, use_itn="false"))
    with writing.sdk.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        for value, options in ((None, MARKS), (False, None)):
            configure(connection, transcription={"written": value})
            append(connection, linear16(talk, 24_000))
            told = events_until(connection, COMPLETED, len(spoken))
            transcripts = [event.transcript for event in told if event.type == COMPLETED]
            assert transcripts == [finish(text, options).text if options else text for text in spoken]


def test_switches_of_rtzr_are_options() -> None:
    def of_stream(**query: str) -> FinishOptions | None:
        read = read_query(QueryParams({"sample_rate": "8000", "encoding": "MULAW", **query}), ("asr",))
        return finished_by(read.switches, None)

    def of_file(**config: bool) -> dict | bool:
        return json.loads(read_config(json.dumps(config), ("asr",))["written"][0])

    assert of_stream() == FinishOptions()
    assert of_stream(use_itn="false") is None
    assert of_stream(use_itn="FALSE", use_profanity_filter="true", use_disfluency_filter="true") == (
        FinishOptions(itn=False, profanity_filter=True, disfluency_filter=True)
    )
    assert of_stream(use_punctuation="true") == FinishOptions(punctuation=True)
    assert FinishOptions.from_json(of_file()) == (
        FinishOptions(itn=True, disfluency_filter=True, paragraph_splitter=True)
    )
    assert FinishOptions.from_json(of_file(use_profanity_filter=True, use_disfluency_filter=False)) == (
        FinishOptions(profanity_filter=True, paragraph_splitter=True)
    )
    assert of_file(**OFF) is False


def utterances(*texts: str) -> list[Result]:
    """Utterances of words of 200 ms, a second between them."""
    found, at = [], 0
    for text in texts:
        words = []
        for word in text.split():
            words.append(Word(word, at, at + 200, 0.9))
            at += 300
        found.append(Result(text, True, words[0].start_ms, words[-1].end_ms, tuple(words)))
        at += 1000
    return found


def test_a_number_may_go_on_behind_a_pause() -> None:
    section = utterances("오늘 만", "오천 원", "어 냈어요")
    form = finish(words_of(section), FinishOptions(disfluency_filter=True, analyzer="rules"))
    found = list(divided(form, section))
    forms = [one.written for one in found if one.written]
    assert [one.text for one in forms] == ["오늘 15,000원", "", "냈어요"]
    assert forms[2].dropped == (0,) and forms[0].words[1].sources == (1, 2, 3)
    shown = as_written(found[0])
    assert (shown.start_ms, shown.end_ms) == (section[0].start_ms, section[1].end_ms)


@pytest.mark.parametrize("count", [0, 1, 149, 150, 151, 299, 300, 301])
def test_sections_hold_every_utterance_once(count: int) -> None:
    spoken = utterances(*["이백 원"] * count)
    found = list(sections(spoken))
    assert [one for section in found for one in section] == spoken
    assert all(len(section) == SECTION // 2 for section in found[:-1])
