"""Every corpus recipe on a small tree of its published layout, quirks included, spoken by espeak-ng."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.audio.espeak import synthesize
from ko_asr.corpora.folder import Folder
from ko_asr.data.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]


def speech(text: str, rate: int = 16_000) -> np.ndarray:
    """Int16 speech at any rate (by linear interpolation: only its length and that it is there matter)."""
    samples = synthesize(text)
    places = np.arange(0, len(samples) - 1, 16_000 / rate)
    return np.round(np.interp(places, np.arange(len(samples)), samples) * 32767).astype(np.int16)


def write_audio(path: Path, text: str, rate: int = 16_000, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech(text, rate), rate, **options)


def write_json(path: Path, label: object, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(label, ensure_ascii=False), encoding=encoding)


class Prepared:
    """Output of a recipe: manifests by split, reasons of rejection by id, the process."""

    def __init__(self, recipe: str, corpus: Path, out: Path, *options: str) -> None:
        usual = ("--jobs", "1", "--tokenizers", "--max-rejected", "0.9")
        script = f"recipes/prepare_{recipe}.py"
        self.process = run(script, "--corpus", corpus, "--out", out, *usual, *options)
        self.splits = {
            path.stem: list(read_manifest(path)) for path in out.glob("*.jsonl") if path.stem != "rejected"
        }
        rejected = out / "rejected.jsonl"
        lines = rejected.read_text(encoding="utf-8").splitlines() if rejected.is_file() else []
        self.reasons = {row["id"]: row["reason"] for row in map(json.loads, lines)}
        self.audit = (
            json.loads((out / "audit.json").read_text(encoding="utf-8")) if lines or self.splits else {}
        )

    def texts(self, split: str) -> list[str]:
        return [entry["text"] for entry in self.splits[split]]

    def check_audio(self) -> None:
        """Every file of every manifest is 16 kHz mono FLAC and as long as the manifest says."""
        for entry in (entry for split in self.splits.values() for entry in split):
            info = soundfile.info(entry["audio_filepath"])
            assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
            assert info.duration == pytest.approx(entry["duration"], abs=1e-4) and info.duration > 0.2


def test_zeroth_korean(tmp_path):
    corpus = tmp_path / "zeroth korean" / "speechDATA"
    for part, reader in (
        ("train_data_01", "106"),
        ("train_data_01", "107"),
        ("test_data_01", "104"),
    ):
        folder = corpus / part / "003" / reader
        lines = [
            f"{reader}_003_{k:04d} 오늘 날씨가 {text}" for k, text in enumerate(("좋다", "싸다", "맑다"))
        ]
        for line in lines:
            key, _, text = line.partition(" ")
            if key != "106_003_0002":  # one file is missing
                write_audio(folder / f"{key}.flac", text)
        (folder / f"{reader}_003.trans.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (corpus / "AUDIO_INFO").write_text(
        "SPEAKERID|NAME|SEX|SCRIPTID|DATASET\n106|A|f|003|train\n107 | B | m |003|train\n104|C|m|003|test\n",
        encoding="utf-8",
    )
    prepared = Prepared("zeroth", tmp_path / "zeroth korean", tmp_path / "out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("test") == ["오늘 날씨가 좋다", "오늘 날씨가 싸다", "오늘 날씨가 맑다"]
    assert {(e["speaker"], e["gender"]) for e in prepared.splits["train"]} == {("106", "f"), ("107", "m")}
    assert prepared.reasons == {"train_data_01/003/106/106_003_0002": "missing file"}
    prepared.check_audio()


def test_clovacall(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        labels = []
        for k in range(count):
            name = f"42_{split}_{k:05d}_00.wav"
            write_audio(tmp_path / "ClovaCall" / f"wavs_{split}" / name, f"단체 할인 {k}")
            labels.append(
                {"wav": name, "text": f"단체 할인이 가능한가요? {k}번", "speaker_id": f"{k % 2:05d}"}
            )
        labels.append({"text": "소리가 없다"})
        write_json(tmp_path / "ClovaCall" / f"{split}_ClovaCall.json", labels)
    prepared = Prepared("clovacall", tmp_path, tmp_path.parent / "clovacall_out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("test") == ["단체 할인이 가능한가요 0번", "단체 할인이 가능한가요 1번"]
    assert len(prepared.splits["train"]) == 4 and prepared.splits["train"][1]["speaker"] == "00001"
    assert prepared.reasons == {"train/4": "no wav in the label", "test/2": "no wav in the label"}
    prepared.check_audio()


def conversation_label(text: str, file: str, recorder: str) -> dict:
    return {
        "발화정보": {"stt": text, "scriptId": "s", "fileNm": file, "recrdTime": "1.0", "recrdQuality": "16K"},
        "대화정보": {
            "cityCode": "수도권",
            "recrdEnvrn": "실내",
            "colctUnitCode": "일상",
            "convrsThema": "날씨",
        },
        "녹음자정보": {"gender": "여", "recorderId": recorder, "age": 30},
    }


def test_aihub_conversation(tmp_path):
    corpus = tmp_path / "자유대화 음성(일반남녀)"
    for split, folder, text, file in (
        ("Training", "A_0001", "(NO:) 그래서 (SN:오늘) 3시에 (FP:어) 갔어요.", "a-0001.wavp"),
        ("Training", "A_0001", "(SP:짱)이다 (웃음)", "a-0002.wav"),
        ("Training", "A_0002", "(NO:)", "a-0003.wav"),
        ("Validation", "B_0001", "좋은 아침입니다", "b-0001.wav"),
    ):
        stem = Path(file).stem
        label = corpus / split / "[라벨]1.AI챗봇" / folder / f"{stem}.json"
        write_json(label, conversation_label(text, file, "rec" + folder), "utf-8-sig")
        write_audio(corpus / split / "[원천]1.AI챗봇_1" / folder / f"{stem}.wav", "오늘 갔어요")
    (corpus / "Training" / "[라벨]1.AI챗봇" / "A_0002" / "torn.json").write_text(
        '{"발화정보": {"st', encoding="utf-8"
    )
    write_json(corpus / "Training" / "[라벨]1.AI챗봇" / "A_0002" / "other.json", {"발화정보": {}})
    prepared = Prepared("aihub", corpus, tmp_path / "out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("train") == ["그래서 오늘 3시에 어 갔어요", "짱이다"]
    assert prepared.texts("dev") == ["좋은 아침입니다"]
    first = prepared.splits["train"][0]
    assert (first["speaker"], first["gender"], first["age"], first["region"]) == (
        "recA_0001",
        "여",
        30,
        "수도권",
    )
    reasons = {Path(key).name: reason for key, reason in prepared.reasons.items()}
    assert reasons.pop("a-0003") == "empty after cleaning"
    assert reasons.pop("torn").startswith("unreadable label") and reasons.pop("other").startswith(
        "label of another kind"
    )
    assert not reasons
    prepared.check_audio()


def test_aihub_still_packed_is_told_and_the_advice_helps(tmp_path):
    corpus = tmp_path / "자유대화 음성"
    write_json(tmp_path / "l" / "a.json", conversation_label("좋은 아침입니다", "a.wav", "r"))
    write_audio(tmp_path / "s" / "a.wav", "좋은 아침입니다")
    for name, folder in (("TL1", "l"), ("TS1", "s")):
        (corpus / "1.Training").mkdir(parents=True, exist_ok=True)
        shutil.make_archive(str(corpus / "1.Training" / name), "zip", tmp_path / folder)
    for options in ((), ("--family", "conversation")):
        refused = Prepared("aihub", corpus, tmp_path / "out", *options).process
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert f"no JSON labels below {corpus}, but 2 archives still packed" in refused.stderr
    _, _, advice = refused.stderr.partition("(python ")
    command = [sys.executable, *shlex.split(advice.partition(")")[0])]
    for name in ("TL1", "TS1"):
        subprocess.run([part.replace("TL1", name) for part in command], cwd=corpus, check=True)
    prepared = Prepared("aihub", corpus, tmp_path / "out")
    assert prepared.texts("train") == ["좋은 아침입니다"], prepared.process.stderr
    assert "note: 2 archives are not read" in prepared.process.stdout


def test_aihub_command(tmp_path):
    corpus = tmp_path / "명령어"
    for k, (quality, seconds) in enumerate(
        (("Good", "0.9"), ("N/A", "0.9"), ("Bad", "0.9"), ("Good", "2.6"))
    ):
        name = f"PA_{k:04d}-F-08-C"
        label = {
            "기본정보": {"DataCategory": "AI비서"},
            "전사정보": {"LabelText": f"거실 불 {'켜' if k else '꺼'} 줘,"},
            "화자정보": {"SpeakerName": f"S{k}", "Gender": "Female", "Age": "60~69", "Region": "경상"},
            "파일정보": {"FileName": f"{name}.wav", "FileLength": seconds, "DirectoryPath": "/nia/x"},
            "기타정보": {"QualityStatus": quality},
        }
        write_json(corpus / "01.데이터/1.Training/라벨링데이터/TL1/집" / f"{name}.json", label)
        write_audio(
            corpus / "01.데이터/1.Training/원천데이터/TS1/집" / f"{name}.wav", "거실 불 켜 줘", 48_000
        )
    prepared = Prepared("aihub", corpus, tmp_path / "out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("train") == ["거실 불 꺼 줘", "거실 불 켜 줘"]
    assert prepared.splits["train"][0]["age"] == "60~69"
    bad, short = prepared.reasons.values()
    assert bad == "labelled as of bad quality (Bad)" and short.startswith("audio cut off (1.")
    prepared.check_audio()


def test_aihub_dialect_cuts_segments(tmp_path):
    corpus = tmp_path / "방언"
    said = [
        ("(마자)/(맞아) {laughing} 그래", "맞아 그래"),
        ("&name1&이가 ((가서)) 봤어", "봤어"),
        ("정구지", "부추"),
        ("(())", ""),
    ]
    audio, utterances, start = [np.zeros(8000, np.int16)], [], 0.5
    for k, (dialect, standard) in enumerate(said):
        samples = speech("맞아 그래 봤어")
        end = start + len(samples) / 16_000
        utterances.append(
            {
                "id": f"D.1.1.{k}",
                "form": dialect,
                "dialect_form": dialect,
                "standard_form": standard,
                "speaker_id": str(k % 2 + 1),
                "start": start,
                "end": end,
            }
        )
        audio += [samples, np.zeros(4000, np.int16)]
        start = end + 0.25
    utterances.append(
        {"id": "D.1.1.8", "dialect_form": "길이 없다", "start": 3.0, "end": 3.0, "speaker_id": "1"}
    )
    utterances.append(
        {"id": "D.1.1.9", "dialect_form": "끝난 뒤", "start": 500.0, "end": 503.0, "speaker_id": "1"}
    )
    label = {
        "id": "D",
        "speaker": [
            {"id": "1", "age": "40대", "sex": "여성", "principal_residence": "대구"},
            {"id": "2", "age": "20대", "sex": "남성"},
        ],
        "utterance": utterances,
    }
    write_json(corpus / "Training/[라벨]경상도/DKSR20000001.json", label, "utf-8-sig")
    (corpus / "Training/[원천]경상도").mkdir(parents=True)
    whole = np.concatenate(audio)
    soundfile.write(corpus / "Training/[원천]경상도/DKSR20000001.wav", whole, 16_000)
    prepared = Prepared("aihub", corpus, tmp_path / "out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("train") == ["마자 그래", "이가 가서 봤어", "정구지"]
    first = prepared.splits["train"][0]
    cut = soundfile.read(first["audio_filepath"], dtype="int16")[0]
    assert np.array_equal(cut, whole[8000 : 8000 + len(cut)]) and len(cut) == len(speech("맞아 그래 봤어"))
    assert (first["speaker"], first["gender"], first["region"]) == ("1", "여성", "대구")
    reasons = {Path(key).name: reason for key, reason in prepared.reasons.items()}
    assert reasons["D.1.1.3"] == "empty after cleaning" and reasons["D.1.1.8"] == "segment of no length"
    assert reasons["D.1.1.9"] == "empty audio" and len(reasons) == 3
    respelled = Prepared("aihub", corpus, tmp_path / "standard", "--form", "standard")
    assert respelled.texts("train") == ["맞아 그래", "봤어", "부추"]
    prepared.check_audio()


def test_nikl_has_a_headerless_file_for_each_utterance(tmp_path):
    corpus = tmp_path / "NIKL_DIALOGUE"
    utterances = [
        {
            "id": f"SDRW2000000001.1.1.{k}",
            "form": f"name1 씨 (20)/(이십) 명 {k}",
            "original_form": "",
            "speaker_id": "SD1",
            "start": 1.0 * k,
            "end": k + 1.0,
        }
        for k in range(1, 4)
    ]
    label = {
        "id": "SDRW2000000001",
        "metadata": {},
        "document": [
            {
                "id": "SDRW2000000001.1",
                "metadata": {"speaker": [{"id": "SD1", "age": "30대", "sex": "남성"}]},
                "utterance": utterances,
            }
        ],
    }
    write_json(corpus / "SDRW2000000001.json", label)
    for said in utterances:
        path = corpus / "SDRW2000000001" / f"{said['id']}.pcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(speech("이십 명").astype("<i2").tobytes())
    prepared = Prepared("aihub", corpus, tmp_path / "out", "--side", "phonetic")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("train") == ["씨 이십 명 1", "씨 이십 명 2", "씨 이십 명 3"]
    assert prepared.splits["train"][0]["gender"] == "남성"
    prepared.check_audio()


def test_common_voice(tmp_path):
    corpus = tmp_path / "cv-corpus-21.0" / "ko"
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\n"
    for split, sentences in (
        ("train", ['그는 "네, 알겠습니다" 라고 했다.', "두 번째 문장"]),
        ("dev", ["개발"]),
        ("test", ["시험"]),
    ):
        rows = []
        for k, sentence in enumerate(sentences):
            clip = f"common_voice_ko_{split}{k}.mp3"
            write_audio(corpus / "clips" / clip, sentence, 48_000, format="MP3")
            rows.append(f"{'ab' * 64}\t{clip}\t1\t{sentence}\t2\t0\ttwenties\tmale_masculine\t\n")
        rows.append("short\trow\n" if split == "test" else "")
        (corpus / f"{split}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    prepared = Prepared("commonvoice", tmp_path / "cv-corpus-21.0", tmp_path / "out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("train") == ["그는 네 알겠습니다 라고 했다", "두 번째 문장"]
    assert prepared.texts("dev") == ["개발"] and prepared.texts("test") == ["시험"]
    assert (
        prepared.splits["train"][0]["speaker"] == "abababababab"
        and "accent" not in prepared.splits["train"][0]
    )
    assert prepared.reasons == {"row": "row with too few columns"}
    prepared.check_audio()


def test_fleurs(tmp_path):
    corpus = tmp_path / "ko_kr"
    for split in ("train", "dev", "test"):
        rows = []
        for k in range(2):
            file = f"{split}{k}1234.wav"
            write_audio(corpus / "audio" / split / file, "서울은 수도다")
            rows.append(
                f'{k}\t{file}\t서울은 2020년, "수도"다.\t서울은 2020년 수도 다\t서 울\t32000\tFEMALE\n'
            )
        (corpus / f"{split}.tsv").write_text("".join(rows), encoding="utf-8")
    prepared = Prepared("fleurs", tmp_path, tmp_path.parent / "fleurs_out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert all(prepared.texts(split) == ["서울은 2020년 수도다"] * 2 for split in ("train", "dev", "test"))
    assert prepared.splits["dev"][0]["gender"] == "female" and not prepared.reasons
    prepared.check_audio()


def test_a_folder_with_texts_beside_the_audio(tmp_path):
    corpus = tmp_path / "mine"
    for split in ("train", "valid"):
        for k in range(3):
            write_audio(corpus / split / "방 1" / f"{k}.wav", f"문장 {k}", 44_100)
            (corpus / split / "방 1" / f"{k}.txt").write_text(
                f"문장 {k}번.\n", encoding="cp949" if k else "utf-8"
            )
    write_audio(corpus / "train" / "alone.wav", "혼자")
    prepared = Prepared("folder", corpus, tmp_path / "out")
    assert prepared.process.returncode == 0, prepared.process.stderr
    assert prepared.texts("train") == prepared.texts("dev") == ["문장 0번", "문장 1번", "문장 2번"]
    assert prepared.reasons == {"train/alone": "no text beside the audio"}
    prepared.check_audio()


@pytest.mark.parametrize("kind", ["tsv", "csv", "ljspeech"])
def test_a_table(tmp_path, kind):
    corpus = tmp_path / "mine"
    for k in range(4):
        write_audio(corpus / ("wavs" if kind == "ljspeech" else "sub") / f"u{k}.wav", f"문장 {k}")
    texts = [f'문장 {k}, "네"' for k in range(4)]
    if kind == "tsv":
        rows = [
            "audio\ttext\tsplit\tspeaker\tstart\tend",
            *(f"sub/u{k}.wav\t{texts[k]}\t{'test' if k == 3 else 'train'}\ts{k}\t0.1\t0.6" for k in range(4)),
        ]
        (corpus / "metadata.tsv").write_text("\n".join(rows), encoding="utf-8-sig")
    elif kind == "csv":
        rows = [
            "path,text,split",
            *('sub/u{},"문장 {}, ""네""",{}'.format(k, k, "test" if k == 3 else "train") for k in range(4)),
        ]
        (corpus / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    else:
        (corpus / "metadata.csv").write_text(
            "\n".join(f"u{k}|{texts[k]}|{texts[k]}" for k in range(4)), encoding="utf-8"
        )
    prepared = Prepared("folder", corpus, tmp_path / "out", "--dev-share", "0")
    assert prepared.process.returncode == 0, prepared.process.stderr
    kept = [entry["text"] for split in ("train", "test") for entry in prepared.splits.get(split, [])]
    assert kept == ["문장 0 네", "문장 1 네", "문장 2 네", "문장 3 네"]
    if kind == "tsv":
        assert prepared.splits["test"][0]["speaker"] == "s3" and prepared.splits["test"][0]["duration"] == 0.5
    prepared.check_audio()


def test_the_drawn_dev_share_is_stable_and_about_right(tmp_path):
    (tmp_path / "t.tsv").write_text(
        "audio\ttext\n" + "".join(f"{k}.wav\t가\n" for k in range(4000)), encoding="utf-8"
    )
    corpus = Folder(tmp_path, tmp_path / "t.tsv", dev_share=0.1)
    dev = {utterance.id for utterance in corpus.utterances("dev")}
    train = {utterance.id for utterance in corpus.utterances("train")}
    assert len(dev) + len(train) == 4000 and not dev & train and 340 < len(dev) < 460
    assert dev == {
        utterance.id for utterance in Folder(tmp_path, tmp_path / "t.tsv", dev_share=0.1).utterances("dev")
    }


def test_wrong_folders_end_in_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "zeroth_korean.tar.gz").write_bytes(b"")
    write_json(tmp_path / "labels" / "x.json", {"unknown": 1})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "metadata.tsv").write_text("name\twords\na\tb\n", encoding="utf-8")
    cases = [
        ("zeroth", "gone", "no folder at"),
        ("zeroth", "packed", "still packed"),
        ("clovacall", "empty", "no train_ClovaCall.json or"),
        ("commonvoice", "empty", "no ko/train.tsv"),
        ("fleurs", "empty", "no ko_kr/train.tsv"),
        ("aihub", "empty", "no JSON labels below"),
        ("aihub", "labels", "none of 1 JSON files"),
        ("folder", "empty", "no utterance below"),
        ("folder", "bad", "has no audio column"),
    ]
    for recipe, folder, expected in cases:
        process = Prepared(recipe, tmp_path / folder, tmp_path / "out").process
        assert process.returncode == 2 and expected in process.stderr, (recipe, process.stderr)
        assert process.stderr.count("\n") == 1
    inside = Prepared("folder", tmp_path / "bad", tmp_path / "bad" / "out").process
    assert inside.returncode == 2 and "lies inside the corpus" in inside.stderr
