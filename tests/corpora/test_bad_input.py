"""What corpora get wrong: split names, columns, rows, labels, file names. Each costs one line."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run, sentence
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.corpora.aihub import Dialect
from ko_asr.corpora.commonvoice import CommonVoice
from ko_asr.corpora.folder import Folder
from ko_asr.corpora.layout import segment_of, text_of, walk
from ko_asr.corpora.names import FileFinder, shortened
from ko_asr.corpora.splits import split_named
from ko_asr.corpora.tables import read_csv
from ko_asr.errors import UserError
from ko_asr.files import atomic_write

TEXT = "철수가 시장으로 다시 갔다"


def wav(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * 16_000)) / 16_000)
    with path.open("wb") as stream:
        soundfile.write(stream, tone, 16_000, "PCM_16", format="WAV")
    return path


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def prepare(recipe: str, corpus: Path, out: Path) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """(entries by split, reasons by place) of a run, whose counts add up."""
    options = ("--jobs", "1", "--tokenizers", "--max-rejected", "1")
    done = run(f"recipes/prepare_{recipe}.py", "--corpus", corpus, "--out", out, *options)
    assert "Traceback" not in done.stderr, done.stderr
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    audits = json.loads((out / "audit.json").read_text(encoding="utf-8"))["splits"].values()
    assert all(audit["adds_up"] for audit in audits)
    assert sum(audit["rejected"] for audit in audits) == len(rows)
    splits = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in out.glob("*.jsonl")
        if path.stem != "rejected"
    }
    return splits, {row["where"]: row["reason"] for row in rows}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"), ("학습", "train"), ("훈련 데이터", "train"), ("train_clean_100", "train"),
        ("validation", "dev"), ("검증", "dev"), ("dev2", "dev2"), ("dev-other", "dev_other"),
        ("평가", "test"), ("test set", "test"), ("test_clean", "test_clean"), ("eval-other", "eval_other"),
        ("room 7", ""), ("contest", ""),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_named(name) == split


@pytest.mark.parametrize("name", ["held-out", "train_heldout", "train_dev", "not train"])
def test_names_that_say_two_things_are_no_split(name):
    with pytest.raises(ValueError, match="not clearly"):
        split_named(name)


@pytest.mark.parametrize("name", ["held-out", "unknown", "tets"])
def test_a_split_of_a_table_that_is_none_is_refused_with_the_known_ones(tmp_path, name):
    put(tmp_path / "metadata.tsv", f"audio\ttext\tsplit\na.wav\t{TEXT}\ttrain\nb.wav\t{TEXT}\t{name}\n")
    with pytest.raises(UserError, match=rf"metadata.tsv:3: the split '{name}' is none of train, dev"):
        Folder(tmp_path)


def test_folders_of_splits_stay_apart_and_others_are_rejected(tmp_path):
    for folder in ("train", "test-clean", "test_other", "검증", "extra"):
        wav(tmp_path / folder / "a.wav")
        put(tmp_path / folder / "a.txt", TEXT)
    corpus = Folder(tmp_path)
    assert corpus.splits() == ["train", "dev", "test_clean", "test_other"]
    train = {u.where: u.problem for u in corpus.utterances("train")}
    assert train == {"train/a.wav": "", "extra/a.wav": "no split named, though others name theirs"}


def test_a_table_with_every_fault_keeps_the_rows_that_hold(tmp_path):
    corpus = tmp_path / "c"
    for name in ("a", "b", "s1.utt1", "s1.utt2"):
        wav(corpus / "wavs" / f"{name}.wav")
    header = "audio,text,start,end,duration,offset,sampling_rate,audio_filepath,lang"
    rows = {
        f"wavs\\a.wav,{TEXT},,,99.5,1.5,8000,zzz.wav,ko": "",
        's1.utt1,"철수가\n다시 갔다",,': "",
        f"s1.utt2,{TEXT},0.1,0.4": "",
        "b,네, 알겠습니다,,,,,,,,": "row with too many cells",
        'b,"열린 따옴표': "row with broken quotation marks",
        f",{TEXT}": "no audio",
        "b": "no text",
        f"b,{TEXT},nan,1": "start is no time",
        f"b,{TEXT},0,inf": "end is no time",
        f"b,{TEXT},-1,1": "start is negative",
        f"b,{TEXT},0.4,0.2": "segment of no length",
        f"b,{TEXT},0,450": "segment outside the audio",
        f"b,{TEXT},450,900": "empty audio",
        "b," + "가 " * 70_000: "text of more than 100000 characters",
        "b,NaN": "no text",
    }
    put(corpus / "metadata.csv", "\n".join([header, *rows]) + "\n")
    splits, reasons = prepare("folder", corpus, tmp_path / "out")
    kept = sorted((e for entries in splits.values() for e in entries), key=lambda e: e["audio_filepath"])
    assert [entry["text"] for entry in kept] == ["철수가 다시 갔다", TEXT, TEXT]
    entry = kept[2]
    assert (entry["duration"], entry["sampling_rate"], entry["lang"]) == (0.5, 16_000, "ko")
    assert "offset" not in entry and entry["audio_filepath"] == "audio/wavs/a.flac"
    assert (entry["table_duration"], entry["table_audio_filepath"]) == ("99.5", "zzz.wav")
    found = [reason.split(" (")[0] for _, reason in sorted(reasons.items(), key=lambda r: int(r[0][13:]))]
    assert found == [reason for reason in rows.values() if reason]


@given(st.lists(st.lists(st.text('가a," \n', max_size=6), min_size=2, max_size=4), min_size=1, max_size=5))
def test_quoted_cells_come_back(tmp_path_factory, rows):
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [*rows]]
    table = put(tmp_path_factory.mktemp("t") / "t.csv", "a,b,c,d\n" + "\n".join(quoted) + "\n")
    spaced = [[" ".join(cell.split()) for cell in row] for row in rows]
    read = list(read_csv(table))
    assert not any(row.problem for row in read)
    assert [[" ".join(cell.split()) for cell in row.cells.values()] for row in read] == spaced


@pytest.mark.parametrize("value", [None, 12, 1.5, ["가"], {"a": 1}, True, "null", " None ", "가" * 100_001])
def test_what_is_no_text_never_becomes_one(value):
    text, problem = text_of(value)
    assert text == "" and problem


@given(st.one_of(st.none(), st.text(max_size=5), st.floats(), st.integers()), st.floats())
def test_a_segment_is_finite_and_ascending_or_has_a_problem(start, end):
    first, last, problem = segment_of(start, end)
    assert problem or (0 <= first < float("inf") and (last is None or first < last < float("inf")))


def test_one_bad_label_of_a_dialogue_costs_itself(tmp_path):
    good = {"id": "1", "dialect_form": TEXT, "start": 0.0, "end": 0.4}
    bad = [None, {**good, "id": "2", "dialect_form": 3}, {**good, "id": "3", "start": "NaN"},
           {**good, "id": "4", "end": float("inf")}, {**good, "id": "5", "end": 10**400}]  # fmt: skip
    put(tmp_path / "Training/D.json", json.dumps({"utterance": [*bad, good], "speaker": None}))
    put(tmp_path / "Training/deep.json", "[" * 100_000)
    wav(tmp_path / "Training/D.wav")
    problems = [u.problem.split(" (")[0] for u in Dialect(tmp_path).utterances("train")]
    assert problems == [
        "no utterance in the label", "text is a number", "start is no time", "end is no time",
        "end is no time", "", "unreadable label",
    ]  # fmt: skip


def test_clovacall_null_is_no_word(tmp_path):
    entries = [{"wav": "a.wav", "text": None}, None, {"wav": "b.wav", "text": TEXT}, {"wav": None}]
    put(tmp_path / "c/train_ClovaCall.json", json.dumps(entries))
    for name in "ab":
        wav(tmp_path / "c/wavs_train" / f"{name}.wav")
    splits, reasons = prepare("clovacall", tmp_path / "c", tmp_path / "out")
    assert [entry["text"] for entry in splits["train"]] == [TEXT]
    assert list(reasons.values()) == ["no text", "no wav in the label", "no wav in the label"]


def test_common_voice_with_validated_only_is_refused(tmp_path):
    put(tmp_path / "ko/validated.tsv", "client_id\tpath\tsentence\n")
    with pytest.raises(UserError, match=r"neither train\.tsv, dev.tsv nor test.tsv"):
        CommonVoice(tmp_path)


def test_names_are_found_as_the_disk_spells_them_or_rejected(tmp_path):
    corpus, other = tmp_path / "c", tmp_path / "disk2"
    nfd = unicodedata.normalize("NFD", "녹음")
    names = [f"{nfd}.wav", "A001.WAV", "나" * 83 + "ab.wav", "x.wav", "X.wav", "closed.wav", "pipe.wav"]
    texts = ["녹음.txt", "A001.TXT", "나" * 83 + "ab.txt", "x.txt", "X.txt", "", "pipe.txt"]
    for name, text in zip(names, texts, strict=True):
        if name == "pipe.wav":
            os.mkfifo(corpus / name)
        else:
            wav(corpus / name)
        if text:
            put(corpus / text, TEXT)
    (corpus / "closed.txt").mkdir()
    cp949 = os.path.join(os.fsencode(corpus), "소리".encode("cp949"))
    os.rename(wav(corpus / "t.wav"), cp949 + b".wav")
    os.rename(put(corpus / "t.txt", TEXT), cp949 + b".txt")
    put(wav(other / "b.wav").with_suffix(".txt"), TEXT)
    (corpus / "more").symlink_to(other)
    (other / "circle").symlink_to(corpus)
    splits, reasons = prepare("folder", corpus, tmp_path / "out")
    kept = {entry["audio_filepath"] for entries in splits.values() for entry in entries}
    assert {"audio/A001.flac", "audio/소리.flac", "audio/more/b.flac", f"audio/{nfd}.flac"} < kept
    assert len(kept) == 6 and all((tmp_path / "out" / name).is_file() for name in kept)
    assert reasons.pop("more/circle").startswith("a link to a folder that is read elsewhere")
    assert reasons == {
        "closed.wav": "no text beside the audio",
        "pipe.wav": "not a regular file",
        "x.wav": "id differs from an earlier one only in case or Unicode form",
    }


def test_a_finder_takes_no_guess(tmp_path):
    for name in ("a.WAV", "A.wav"):
        wav(tmp_path / name)
    find = FileFinder().find
    assert find(tmp_path / "a.wav") == tmp_path / "a.WAV" and find(tmp_path / "A.wav") == tmp_path / "A.wav"
    assert find(tmp_path / "b.wav") is None and find("\0/a.wav") is None


def test_an_unreadable_folder_is_told(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [listed.problem for listed in walk(tmp_path)] == ["", "unreadable folder (Permission denied)"]


@given(st.text("가a", min_size=1, max_size=300), st.integers(30, 255))
def test_a_shortened_name_fits(name, room):
    assert len(shortened(name, room).encode()) <= room


def test_a_file_with_a_long_name_is_written(tmp_path):
    path = tmp_path / ("가" * 85)
    with atomic_write(path) as stream:
        stream.write(TEXT)
    assert path.read_text(encoding="utf-8") == TEXT


def test_shards_name_a_duration_that_is_no_number(tmp_path):
    entry = {"audio_filepath": str(wav(tmp_path / "a.wav")), "duration": "0.5", "text": TEXT}
    manifest = put(tmp_path / "m.jsonl", json.dumps(entry) + "\n")
    done = run("recipes/shard_manifest.py", "--manifest", manifest, "--out", tmp_path / "shards")
    assert "m.jsonl:1" in sentence(done) and "duration is no number: '0.5'" in done.stderr
