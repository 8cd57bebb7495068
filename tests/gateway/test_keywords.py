"""Words that a request favours: keywords, and those of a prompt."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gateway_process import GatewayProcess
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ko_asr.audio.read import read_audio
from ko_asr.client.connection import KeywordsNotTaken
from ko_asr.client.offline import AsrClient
from ko_asr.data.manifest import read_manifest
from ko_asr.evaluation.metrics import score
from ko_asr.runtime import tensors
from ko_asr.serving.server import TritonServer


@pytest.fixture(scope="module")
def noisy(demo) -> list[tuple[Path, str]]:
    """Utterances in noise, and what is said."""
    entries = list(read_manifest(demo.manifests["eval_other"]))[:30]
    return [(Path(entry["audio_filepath"]), entry["text"]) for entry in entries]


def text(gateway: GatewayProcess, file: Path, **fields) -> str:
    answer = gateway.post(data={"model": "asr", **fields}, files={"file": file.read_bytes()})
    assert answer.status_code == 200, answer.text
    return answer.json()["text"]


def test_keywords_are_those_of_the_grpc_client(asr_server, gateway, noisy) -> None:
    with AsrClient(asr_server) as client:
        for file, said in noisy[:8]:
            keywords = said.split()
            wanted = client.transcribe(read_audio(file), keywords=keywords).text
            assert text(gateway, file, **{"keywords[]": keywords}) == wanted
            plain = gateway.post(
                "/v1/transcribe", data={"keywords": keywords}, files={"audio": file.read_bytes()}
            )
            assert plain.json()["text"] == wanted


def test_the_sdk_sends_them(gateway, noisy) -> None:
    file, said = noisy[0]
    with file.open("rb") as audio:
        found = gateway.sdk.audio.transcriptions.create(
            model="asr", file=audio, extra_body={"keywords": said.split()}
        )
    assert found.text == text(gateway, file, keywords=said.split())


def test_a_prompt_helps_and_one_about_something_else_does_no_harm(gateway, noisy) -> None:
    texts = [said for _, said in noisy]

    def cer(prompts: list[str]) -> float:
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(
                lambda one: text(gateway, one[0][0], prompt=one[1]), zip(noisy, prompts, strict=True)
            )
        return sum(score(said, heard).cer for said, heard in zip(texts, found, strict=True)) / len(texts)

    none, own = cer([""] * len(texts)), cer(texts)
    others = cer([" ".join(t for t in texts[:20] if t != said) for said in texts])
    print(f"mean CER without a prompt {none:.4f}, the text itself {own:.4f}, other texts {others:.4f}")
    assert own < 0.8 * none and others <= none


def test_what_a_prompt_holds_besides_usable_words_is_left_out(gateway, noisy) -> None:
    file, said = noisy[0]
    assert text(gateway, file, prompt=f"GPT-5, 2026! {said} ㅋㅋ 아") == text(gateway, file, prompt=said)
    many = " ".join(f"{a}{b}" for a in "가나다라마바사아자차" for b in "강난달람맘밥삿앙잦찻" * 2)
    assert text(gateway, file, prompt=f"{many} {'길' * 3000}", keywords="지은이:2")


def test_a_bad_keyword_is_refused_by_name_before_the_file_is_read(gateway, noisy) -> None:
    for keyword, words in {"abc": "no tokens for a b c", "철수:9": "철수:9", "가" * 101: "가가"}.items():
        for path, field in (("/v1/audio/transcriptions", "file"), ("/v1/transcribe", "audio")):
            error = gateway.error(
                400, path=path, data={"model": "asr", "keywords[]": ["서울", keyword]}, files={field: b"?"}
            )
            assert (error["param"], error["code"]) == ("keywords", "invalid_keyword"), error
            assert words in error["message"]
    words = [f"{a}{b}" for a in "가나다라마바사아자차" for b in "가나다라마바사아자차카"]
    error = gateway.error(400, data={"model": "asr", "keywords[]": words}, files={"file": b"?"})
    assert "110 keywords are too many: give at most 100" in error["message"]


def test_every_piece_of_a_long_file_has_them(gateway, noisy, tmp_path: Path) -> None:
    clips = [part for file, _ in noisy[:12] for part in (np.zeros(16_000, np.float32), read_audio(file))]
    soundfile.write(tmp_path / "long.flac", np.concatenate(clips), 16_000)
    said = " ".join(said for _, said in noisy[:12])
    with_words = text(gateway, tmp_path / "long.flac", keywords=list(dict.fromkeys(said.split())))
    assert score(said, with_words).cer < score(said, text(gateway, tmp_path / "long.flac")).cer


@pytest.fixture
def older(demo, tmp_path: Path) -> Iterator[str]:
    """The address of a server whose ensemble was exported without the input options."""
    repository = tmp_path / "older"
    shutil.copytree(demo.repository, repository)
    path = repository / tensors.ENSEMBLE / "config.pbtxt"
    config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    kept = [entry for entry in config.input if entry.name != tensors.OPTIONS]
    del config.input[:]
    config.input.extend(kept)
    config.ensemble_scheduling.step[-1].input_map.pop(tensors.OPTIONS, None)
    path.write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")
    with TritonServer(repository, demo.server) as server:
        yield server.url


def test_a_model_of_before_keywords_takes_none_and_leaves_prompts_alone(older, noisy, tmp_path: Path) -> None:
    file, said = noisy[0]
    with AsrClient(older) as client:
        wanted = client.transcribe(read_audio(file)).text
        with pytest.raises(KeywordsNotTaken, match="takes no keywords: export it again"):
            client.transcribe(read_audio(file), keywords=["서울"])
    with GatewayProcess(older, tmp_path / "g") as gateway:
        assert text(gateway, file, prompt=said) == text(gateway, file) == wanted
        error = gateway.error(
            400, data={"model": "asr", "keywords": "서울"}, files={"file": file.read_bytes()}
        )
        assert error["code"] == "unsupported_parameter" and "takes no keywords" in error["message"]
