"""The KsponSpeech builder through its command: every layout, every kind of damage, kills, and the audit."""

import hashlib
import importlib.util
import json
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.corpora.demo import SPLITS, write_corpus

SCRIPT = Path(__file__).parents[2] / "recipes" / "prepare_ksponspeech.py"
RAY_PYTHON = Path(__file__).parents[2] / ".ray" / "bin" / "python"  # made by make setup-ray
RATE = 16_000


def command(corpus: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--corpus", str(corpus), "--out", str(out), *options]


def prepare(corpus: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    jobs = () if "--jobs" in options else ("--jobs", "1")
    return run(SCRIPT, "--corpus", corpus, "--out", out, *jobs, *options)


def read(out: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def audit_of(out: Path) -> dict:
    return json.loads((out / "audit.json").read_text(encoding="utf-8"))


def tone(seconds: float, seed: int) -> np.ndarray:
    time_axis = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time_axis))
    return np.round((0.3 * np.sin(2 * np.pi * (100 + 7 * seed) * time_axis) + noise) * 32767).astype("<i2")


def path_of(split: str, number: int) -> str:
    if split.startswith("eval"):
        return f"KsponSpeech_eval/{split}/KsponSpeech_E{number:05d}.pcm"
    folder = 1 if split == "train" else 623
    part = 1 if split == "train" else 5
    return f"KsponSpeech_{part:02d}/KsponSpeech_{folder:04d}/KsponSpeech_{number:06d}.pcm"


def write_tree(root: Path, utterances: int = 3) -> dict[str, np.ndarray]:
    """A canonical tree with ``utterances`` a split; returns the samples by script path."""
    samples = {}
    for offset, split in enumerate(SPLITS):
        lines = []
        for number in range(1 + 10 * offset, 1 + 10 * offset + utterances):
            path = path_of(split, number)
            samples[path] = tone(0.5 + 0.01 * number, number)
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(samples[path].tobytes() + (b"\n" if split.startswith("eval") else b""))
            lines.append(f"{path} :: n/ {number}번째 문장, (20년)/(이십 년) 전에.\n")
        (root / "scripts").mkdir(exist_ok=True)
        (root / "scripts" / f"{split}.trn").write_text("".join(lines), encoding="utf-8")
    return samples


def check_prepared(out: Path, samples: dict[str, np.ndarray]) -> None:
    for split in SPLITS:
        entries = read(out, split)
        assert len(entries) == 3
        for entry in entries:
            wanted = samples[entry["audio_filepath"].removeprefix("audio/").replace(".flac", ".pcm")]
            heard, rate = soundfile.read(out / entry["audio_filepath"], dtype="int16")
            assert rate == entry["sampling_rate"] == RATE
            assert np.array_equal(heard, wanted)
            assert round(entry["duration"] * RATE) == len(wanted)
            assert re.fullmatch(r"\d+번째 문장 20년 전에", entry["text"])
            assert entry["spoken"] == entry["text"].replace("20년", "이십 년") and "written" not in entry


def pack(archive: Path, root: Path, folders: list[Path], prefix: str = "") -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as stream:
        for file in sorted(f for folder in folders for f in folder.rglob("*") if f.is_file()):
            stream.write(file, prefix + str(file.relative_to(root)))
    for folder in folders:
        shutil.rmtree(folder)


def scripts_in_own_folder(root: Path) -> None:
    (root / "scripts").rename(root / "KsponSpeech_scripts")


def scripts_in_root(root: Path) -> None:
    for script in (root / "scripts").iterdir():
        script.rename(root / script.name)


def as_speechbrain(root: Path) -> None:
    (root / "train").mkdir()
    for part in ("KsponSpeech_01", "KsponSpeech_05"):
        (root / part).rename(root / "train" / part)
    (root / "KsponSpeech_eval").rename(root / "test")


def eval_in_root(root: Path) -> None:
    for split in ("eval_clean", "eval_other"):
        (root / "KsponSpeech_eval" / split).rename(root / split)


def each_zip_in_its_folder(root: Path) -> None:
    for part in ("KsponSpeech_01", "KsponSpeech_05", "KsponSpeech_eval"):
        (root / part).rename(root / "tmp")
        (root / "한국어_음성_분야" / part).mkdir(parents=True)
        (root / "tmp").rename(root / "한국어_음성_분야" / part / part)


def still_zipped(root: Path) -> None:
    pack(root / "전시문_통합_스크립트" / "KsponSpeech_scripts.zip", root / "scripts", [root / "scripts"])
    for part in ("KsponSpeech_01", "KsponSpeech_05"):
        pack(root / "한국어_음성_분야" / f"{part}.zip", root, [root / part])
    pack(root / "평가용_데이터" / "KsponSpeech_eval.zip", root, [root / "KsponSpeech_eval"], "평가용/")


def partly_unpacked(root: Path) -> None:
    files = sorted((root / "KsponSpeech_01").rglob("*.pcm"))
    kept = {file: file.read_bytes() for file in files[:1]}
    pack(root / "KsponSpeech_01.zip", root, [root / "KsponSpeech_01"])
    for file, data in kept.items():
        file.parent.mkdir(parents=True)
        file.write_bytes(data)


def scripts_in_cp949(root: Path) -> None:
    for script in (root / "scripts").iterdir():
        script.write_bytes(script.read_text(encoding="utf-8").encode("cp949"))


def scripts_with_bom_and_crlf(root: Path) -> None:
    for script in (root / "scripts").iterdir():
        text = script.read_text(encoding="utf-8").replace("\n", "\r\n")
        script.write_bytes(b"\xef\xbb\xbf" + text.encode())


def windows_paths(root: Path) -> None:
    for script in (root / "scripts").iterdir():
        script.write_text(
            script.read_text(encoding="utf-8").replace("KsponSpeech_0", ".\\KsponSpeech_0", 1), "utf-8"
        )


LAYOUTS = [
    lambda root: None,
    scripts_in_own_folder,
    scripts_in_root,
    as_speechbrain,
    eval_in_root,
    each_zip_in_its_folder,
    still_zipped,
    partly_unpacked,
    scripts_in_cp949,
    scripts_with_bom_and_crlf,
    windows_paths,
]


@pytest.mark.parametrize("arrange", LAYOUTS, ids=lambda arrange: arrange.__name__.strip("<>"))
def test_every_layout_gives_the_same(tmp_path, arrange):
    root = tmp_path / "말뭉치 자료" / "corpus"
    samples = write_tree(root)
    arrange(root)
    before = digest(root)
    done = prepare(root, tmp_path / "나온 것", "--tokenizers")  # none: their cost is another test's
    assert done.returncode == 0, done.stderr + done.stdout
    check_prepared(tmp_path / "나온 것", samples)
    assert digest(root) == before  # the corpus is only read
    audit = audit_of(tmp_path / "나온 것")
    assert audit["feasibility"] == []
    assert all(split["adds_up"] and not split["matches_published"] for split in audit["splits"].values())
    assert audit["splits"]["eval_clean"]["repairs"] == {"odd byte dropped": 3}


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepared_digest(out: Path) -> dict[str, str]:
    return {name: value for name, value in digest(out).items() if not name.startswith(("audit", "data_card"))}


def test_zips_elsewhere(tmp_path):
    samples = write_tree(tmp_path / "corpus")
    pack(
        tmp_path / "zips" / "KsponSpeech_01.zip",
        tmp_path / "corpus",
        [tmp_path / "corpus" / "KsponSpeech_01"],
    )
    done = prepare(tmp_path / "corpus", tmp_path / "out", "--zips", str(tmp_path / "zips"))
    assert done.returncode == 0, done.stderr
    check_prepared(tmp_path / "out", samples)


def damage(root: Path) -> dict[str, str]:
    """Add one bad line of every kind to train.trn; returns the wanted reasons by id."""
    folder = root / "KsponSpeech_01" / "KsponSpeech_0001"
    header = "KsponSpeech_01/KsponSpeech_0001"
    (folder / "empty.pcm").write_bytes(b"")
    (folder / "byte.pcm").write_bytes(b"\x00")
    (folder / "short.pcm").write_bytes(b"\x01\x00" * 100)
    (folder / "flat.pcm").write_bytes(b"\x00" * RATE)
    (folder / "folder.pcm").mkdir()
    (folder / "cut.pcm").write_bytes(b"fLaC" + b"\x00" * 50)
    wanted = {
        "missing": "missing file",
        "empty": "empty audio",
        "byte": "empty audio",
        "short": "shorter than 0.1 s",
        "flat": "no signal (every sample is the same)",
        "folder": "unreadable file (Is a directory)",
    }
    lines = [f"{header}/{name}.pcm :: 문장" for name in (*wanted, "cut")]
    lines += [
        f"{header}/KsponSpeech_000001.pcm :: 같은 것",
        f"{header}/tags.pcm :: b/ n/",
        f"{header}/open.pcm :: (20년/(이십 년)",
        "한 줄이 망가졌다",
        "",
        "../../secret.pcm :: 문장",
        ":: 경로가 없다",
    ]
    with (root / "scripts" / "train.trn").open("ab") as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
        stream.write(f"{header}/bytes.pcm :: ".encode() + b"\xff\xff\x80\n")
    return wanted


def test_bad_input_is_told_and_does_not_stop_the_run(tmp_path):
    root, out = tmp_path / "corpus", tmp_path / "out"
    write_tree(root)
    wanted = damage(root)
    shutil.copy(root / path_of("train", 1), tmp_path / "pcm")
    soundfile.write(root / path_of("train", 2), tone(0.6, 5), RATE, format="WAV")  # a WAV under a PCM name
    done = prepare(root, out)
    assert done.returncode == 1
    assert "FAILED train: 15 of 18 lines rejected" in done.stdout and "Traceback" not in done.stderr
    rejected = [
        json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    by_name = {Path(entry["id"]).name: entry["reason"] for entry in rejected}
    assert {name: by_name[name] for name in wanted} == wanted
    assert by_name["cut"].startswith("unreadable audio (")
    assert by_name["KsponSpeech_000001"] == "duplicate id"
    assert (by_name["tags"], by_name["open"]) == ("empty after cleaning", "unbalanced bracket")
    assert by_name["secret"] == "unsafe path"
    reasons = [entry["reason"] for entry in rejected]
    assert reasons.count("no 'path :: text' in the line") == 3 and "neither UTF-8 nor CP949" in reasons
    assert all(re.fullmatch(r"train\.trn:\d+", entry["where"]) for entry in rejected)
    train = audit_of(out)["splits"]["train"]
    assert (train["lines"], train["kept"], train["rejected"]) == (18, 3, 15) and train["adds_up"]
    assert sum(train["rejected_by_reason"].values()) == 15
    assert train["repairs"] == {"container under a PCM name": 1}
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert (
        page.count("<svg") == 5
        and "같은 것" in page
        and "http" not in re.sub(r"https://aihub\S+|http://www.w3\S+", "", page)
    )
    assert "duplicate id" in (out / "data_card.md").read_text(encoding="utf-8")
    assert len(read(out, "dev")) == 3
    assert prepare(root, out, "--max-rejected", "1").returncode == 0
    shutil.copy(tmp_path / "pcm", root / "KsponSpeech_01" / "KsponSpeech_0001" / "missing.pcm")
    prepare(root, out)  # a file that turned up later is taken
    assert len(read(out, "train")) == 4


def test_broken_archives_are_told(tmp_path):
    root = tmp_path / "corpus"
    write_tree(root)
    for part in ("KsponSpeech_01", "KsponSpeech_05"):
        pack(root / f"{part}.zip", root, [root / part])
    cut = root / "KsponSpeech_05.zip"
    cut.write_bytes(cut.read_bytes()[:20_000])
    damaged = bytearray((root / "KsponSpeech_01.zip").read_bytes())
    damaged[5_000:5_010] = b"0123456789"
    (root / "KsponSpeech_01.zip").write_bytes(damaged)
    done = prepare(root, tmp_path / "out")
    assert done.returncode == 1 and "FAILED dev: nothing could be kept" in done.stdout, done.stderr
    splits = audit_of(tmp_path / "out")["splits"]
    assert splits["dev"]["rejected_by_reason"] == {"broken archive": 3}
    assert splits["train"]["rejected_by_reason"] == {"unreadable in KsponSpeech_01.zip": 1}
    assert (splits["train"]["kept"], splits["eval_clean"]["kept"]) == (2, 3)


def test_another_corpus_is_not_overwritten(tmp_path):
    write_tree(tmp_path / "corpus")
    assert prepare(tmp_path / "corpus", tmp_path / "out").returncode == 0
    with sqlite3.connect(tmp_path / "out" / ".prepare.sqlite") as database:
        database.execute("UPDATE corpus SET name = 'zeroth'")
    before = digest(tmp_path / "out")
    done = prepare(tmp_path / "corpus", tmp_path / "out")
    assert done.returncode == 2 and "holds zeroth: choose another --out" in done.stderr
    assert digest(tmp_path / "out") == before


def test_help():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--unknown-words {drop,unk,reject}" in done.stdout


def test_a_split_that_ends_empty(tmp_path):
    write_tree(tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus" / "KsponSpeech_eval" / "eval_other")
    done = prepare(tmp_path / "corpus", tmp_path / "out", "--max-rejected", "1")
    assert done.returncode == 1 and "FAILED eval_other: nothing could be kept" in done.stdout
    assert not (tmp_path / "out" / "eval_other.jsonl").exists()
    assert len(read(tmp_path / "out", "eval_clean")) == 3
    done = prepare(tmp_path / "corpus", tmp_path / "out", "--splits", "dev")
    assert done.returncode == 0 and "not in this audit: train, eval_clean, of an earlier run" in done.stdout
    assert "--manifest " + str(tmp_path / "out" / "train.jsonl") in done.stdout
    audit = audit_of(tmp_path / "out")
    assert list(audit["splits"]) == ["dev"] and audit["not_audited"] == ["train", "eval_clean"]
    assert "train, eval_clean" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "nowhere"], "no folder"),
        (["--corpus", "empty"], "no .trn scripts below"),
        (["--out", "corpus/out"], "lies inside the corpus"),
        (["--splits", "train,tset"], "no split 'tset'"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--profile", "espnet", "--fillers", "drop"], "ignores --fillers"),
        (["--tokenizers", "nowhere"], "no tokenizer in"),
        (["--out", "file"], "file"),
    ],
)
def test_one_sentence_for_the_user(tmp_path, options, message):
    write_tree(tmp_path / "corpus", utterances=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    defaults = [] if "--corpus" in options else ["--corpus", "corpus"]
    defaults += [] if "--out" in options else ["--out", "out"]
    done = run(SCRIPT, *defaults, *options, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and message in last, done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """120 utterances of speech, and their preparation by one process."""
    root = tmp_path_factory.mktemp("speech")
    write_corpus(root / "corpus", utterances=120, seed=3, jobs=2)
    done = prepare(root / "corpus", root / "out")
    assert done.returncode == 0, done.stderr
    return root


def test_processes_do_not_change_the_result(prepared, tmp_path):
    done = prepare(prepared / "corpus", tmp_path / "out", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert prepared_digest(tmp_path / "out") == prepared_digest(prepared / "out")
    audit = audit_of(prepared / "out")
    rows = [row for row in audit["feasibility"] if row["tokenizer"] == "jamo"]
    assert [row["split"] for row in rows] == list(SPLITS)
    assert all(row["infeasible"]["4x"] == 0 for row in rows) and rows[0]["infeasible"]["8x"] > 0.3
    assert audit["corpus"]["synthetic"] and audit["splits"]["train"]["published"] is None
    assert audit["splits"]["train"]["rules"]["punctuation"] > 0.5
    assert all(row["same_text"]["count"] == 0 for row in audit["across_splits"])
    assert all(row["same_audio"]["count"] == 0 for row in audit["across_splits"])


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()


def runs(pid: str) -> bool:
    """Tell whether the process runs; one that ended and that nobody reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_run_goes_on(prepared, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(prepared / "corpus", out, "--jobs", "2"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.flac"))) < 20 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    files = sorted(out.rglob("*.flac"))
    assert files and not (out / "audit.json").exists() and not (out / "eval_other.jsonl").exists()
    files[0].write_bytes(files[0].read_bytes()[:100])  # what a kill in the middle of a write leaves
    done = prepare(prepared / "corpus", out)
    assert done.returncode == 0, done.stderr
    assert prepared_digest(out) == prepared_digest(prepared / "out")
    assert len(workers) >= 2 and not [worker for worker in workers if runs(worker)]


def test_a_second_run_repeats_nothing_that_is_whole(prepared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(prepared / "out", out)
    first, second = sorted(out.rglob("*.flac"))[:2]
    first.write_bytes(first.read_bytes()[:1000])
    second.unlink()
    done = prepare(prepared / "corpus", out, "--side", "phonetic")
    assert done.returncode == 0, done.stderr
    splits = audit_of(out)["splits"]
    assert sum(split["converted_earlier"] for split in splits.values()) == 120 + 3 * 7 - 2
    texts = {entry["audio_filepath"]: entry["text"] for entry in read(out, "train")}
    written = {entry["audio_filepath"]: entry["text"] for entry in read(prepared / "out", "train")}
    changed = [name for name in texts if texts[name] != written[name]]
    assert changed and all(re.search(r"[\da-z%]", written[name]) for name in changed)
    assert not re.search(r"[\da-z%]", "".join(texts.values()))
    flac = {n: v for n, v in digest(out).items() if n.endswith(".flac")}
    assert flac == {n: v for n, v in digest(prepared / "out").items() if n.endswith(".flac")}


def test_a_broken_memory_of_earlier_runs_is_made_anew(prepared, tmp_path):
    shutil.copytree(prepared / "out", tmp_path / "out")
    (tmp_path / "out" / ".prepare.sqlite").write_bytes(b"not a database at all" * 100)
    assert prepare(prepared / "corpus", tmp_path / "out").returncode == 0
    assert prepared_digest(tmp_path / "out") == prepared_digest(prepared / "out")


def test_a_full_disk_ends_the_run_and_leaves_no_manifest(prepared, tmp_path):
    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    for jobs in ("1", "2"):
        line = command(prepared / "corpus", tmp_path / jobs, "--jobs", jobs)
        done = subprocess.run(line, preexec_fn=small_files_only, capture_output=True, encoding="utf-8")
        assert done.returncode == 2, done.stdout
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and "Traceback" not in done.stderr, done.stderr
        assert not list((tmp_path / jobs).glob("*.jsonl")) and not list((tmp_path / jobs).glob("*.tmp"))


def test_one_run_at_a_time(prepared, tmp_path):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".prepare.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = prepare(prepared / "corpus", out)
    assert done.returncode == 2 and "another run is writing" in done.stderr


def test_from_another_folder_with_relative_paths(prepared, tmp_path):
    shutil.copytree(prepared / "corpus", tmp_path / "c")
    done = subprocess.run(command(Path("c"), Path("o/p"), "--jobs", "2"), cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert prepared_digest(tmp_path / "o" / "p") == prepared_digest(prepared / "out")


def test_on_a_ray_cluster(prepared, tmp_path):
    if not RAY_PYTHON.exists():
        pytest.skip("Ray is an optional extra that cannot share .venv: make test-ray runs this")
    options = ("--tokenizers", "--jobs", "2", "--ray")
    line = [str(RAY_PYTHON), *command(prepared / "corpus", tmp_path / "out", *options, "local")[1:]]
    done = subprocess.run(line, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert prepared_digest(tmp_path / "out") == prepared_digest(prepared / "out")


def test_ray_is_named_when_it_is_missing(prepared, tmp_path):
    if importlib.util.find_spec("ray"):
        pytest.skip("Ray is in this environment")
    done = prepare(prepared / "corpus", tmp_path / "out", "--ray", "auto")
    assert done.returncode == 2 and "make setup-ray" in done.stderr
