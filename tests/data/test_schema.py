"""Manifests: what is written is read back, and what training must not read is refused with file and line."""

import json
import unicodedata

import pytest

from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.data.schema import validate_manifest
from ko_asr.errors import UserError

GOOD = {
    "audio_filepath": "a.flac",
    "duration": 1.5,
    "text": "값이 싸다",
    "sampling_rate": 16000,
    "speaker": "가",
}


def manifest(folder, *entries, raw: bytes = b""):
    path = folder / "m.jsonl"
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    path.write_bytes(lines.encode() + raw)
    (folder / "a.flac").touch()
    return path


def test_a_good_manifest(tmp_path):
    summary = validate_manifest(manifest(tmp_path, GOOD, GOOD | {"duration": 2, "offset": 1.0}))
    assert summary.utterances == 2 and summary.longest == 2 and summary.sampling_rates == (16000,)
    assert summary.hours == pytest.approx(3.5 / 3600)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": 0}, "duration: Input should be greater than 0"),
        ({"duration": "1.5"}, "duration: Input should be a valid number"),
        ({"duration": float("nan")}, "duration: Input should be a finite number"),
        ({"duration": 48_000}, "duration: Input should be less than or equal to 3600"),
        ({"text": "  "}, "text: empty text"),
        ({"text": unicodedata.normalize("NFD", "값")}, "text: text is not NFC"),
        ({"text": None}, "text: Input should be a valid string"),
        ({"audio_filepath": "a.pcm"}, "audio_filepath: headerless audio"),
        ({"audio_filepath": "b.flac"}, "no audio file b.flac"),
        ({"sampling_rate": 0}, "sampling_rate: Input should be greater than 0"),
        ({"offset": -1.0}, "offset: Input should be greater than or equal to 0"),
    ],
)
def test_a_bad_entry_is_named_by_line(tmp_path, change, message):
    path = manifest(tmp_path, GOOD, GOOD | change)
    with pytest.raises(UserError) as error:
        validate_manifest(path)
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"\xff\n", "not UTF-8"),
        (b"{}", "Field required"),
    ],
)
def test_a_bad_line(tmp_path, raw, message):
    path = manifest(tmp_path, GOOD, raw=raw)
    with pytest.raises(UserError, match=message) as error:
        validate_manifest(path)
    assert f"{path}:2" in str(error.value)
    with pytest.raises(UserError, match=":2: "):
        list(read_manifest(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "text is null, not a text"),
        ({"text": 3}, "text is 3, not a text"),
        ({"pred_text": float("nan")}, "pred_text is NaN, not a text"),
        ({"pred_text": ["가"]}, 'pred_text is ["가"], not a text'),
        ({"duration": None}, "duration is null, not a finite number"),
        ({"duration": float("nan")}, "duration is NaN, not a finite number"),
        ({"offset": "1"}, 'offset is "1", not a finite number'),
        ({"duration": True}, "duration is true, not a finite number"),
    ],
)
def test_what_is_no_value_never_becomes_a_word(tmp_path, change, message):
    path = manifest(tmp_path, GOOD, GOOD | change)
    with pytest.raises(UserError) as error:
        list(read_manifest(path))
    assert str(error.value) == f"{path}:2: {message}: mend or drop this line"


def test_deep_nesting_is_a_bad_line(tmp_path):
    path = manifest(tmp_path, GOOD, raw=b'{"a": ' + b"[" * 100_000 + b"\n")
    with pytest.raises(UserError, match=r":2: not JSON"):
        list(read_manifest(path))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = manifest(tmp_path, GOOD)
    wanted = list(read_manifest(path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_manifest(path)) == wanted
    assert validate_manifest(path).utterances == 1


def test_empty_and_missing(tmp_path):
    with pytest.raises(UserError, match="holds no utterance"):
        validate_manifest(manifest(tmp_path))
    with pytest.raises(UserError, match="no manifest at"):
        validate_manifest(tmp_path / "none.jsonl")


def test_paths_are_relative_to_the_manifest(tmp_path):
    folder = tmp_path / "자료"
    entries = [
        GOOD | {"audio_filepath": str(folder / "audio" / "a.flac")},
        GOOD | {"audio_filepath": "/far/b.flac"},
    ]
    assert write_manifest(folder / "m.jsonl", entries) == 2
    written = [json.loads(line) for line in (folder / "m.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["audio_filepath"] for entry in written] == ["audio/a.flac", "/far/b.flac"]
    assert list(read_manifest(folder / "m.jsonl")) == entries
    assert "값이" in (folder / "m.jsonl").read_text(encoding="utf-8")


def test_a_failed_write_leaves_the_old_manifest(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [GOOD])
    before = path.read_bytes()

    def breaks():
        yield GOOD
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, breaks())
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
