"""recipes/transcribe.py by its front door on the demo model; the windows under it by their definitions."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from commands import run
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.audio.stream import AudioStream
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError
from ko_asr.evaluation.metrics import score
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.models.frame_model import FrameModel, Frames
from ko_asr.recognition.buffered import BufferedRecognizer, ContextWindows, FrameLine
from ko_asr.recognition.cues import width
from ko_asr.recognition.files import transcribe_file
from ko_asr.recognition.search import Search
from ko_asr.recognition.segmentation import Segmenter
from ko_asr.recognition.window import Window
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.keywords import parse_keywords
from ko_asr.runtime.results import Result

FRAME = 640  # samples of an encoder frame at 4x


def transcribe(*arguments: object) -> subprocess.CompletedProcess:
    return run("recipes/transcribe.py", *arguments)


def cer(reference: str, text: str) -> float:
    return score([reference], [text], "plain").total("cer").rate


@pytest.fixture(scope="module")
def utterances(demo) -> list[tuple[str, np.ndarray]]:
    entries = list(read_manifest(demo.manifests["eval_clean"]))[:24]
    return [(e["text"], soundfile.read(e["audio_filepath"], dtype="float32")[0]) for e in entries]


@pytest.fixture(scope="module")
def conversation(utterances) -> tuple[str, np.ndarray, list[float]]:
    """Text, samples and the starts in seconds of utterances with a second of faint noise between them."""
    rng = np.random.default_rng(0)
    parts, starts, at = [], [], 0
    for _, samples in utterances:
        pause = (1e-4 * rng.standard_normal(16_000)).astype(np.float32)
        starts.append((at + len(pause)) / 16_000)
        parts += [pause, samples]
        at += len(pause) + len(samples)
    return " ".join(text for text, _ in utterances), np.concatenate(parts), starts


@pytest.fixture(scope="module")
def model(demo) -> FrameModel:
    return FrameModel.load(demo.model)


def test_files_of_any_kind_and_bad_ones_beside_them(demo, conversation, tmp_path: Path) -> None:
    text, samples, starts = conversation
    studio = soxr.resample(samples, 16_000, 44_100, quality="VHQ")
    soundfile.write(tmp_path / "대화 하나.flac", samples, 16_000)
    soundfile.write(tmp_path / "studio.mp3", np.stack([studio, studio], 1), 44_100)
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000 * 70), 8_000)
    soundfile.write(tmp_path / "one_sample.wav", samples[:1], 16_000)
    whole = (tmp_path / "대화 하나.flac").read_bytes()
    (tmp_path / "cut_off.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("이것은 소리가 아니다", encoding="utf-8")
    soundfile.write(tmp_path / "empty.wav", samples[:0], 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(1000, np.nan), 16_000, subtype="FLOAT")
    good = [tmp_path / name for name in ("대화 하나.flac", "studio.mp3", "silence.wav", "one_sample.wav")]
    bad = [tmp_path / name for name in ("text.wav", "empty.wav", "nan.wav", "missing.wav", "cut_off.flac")]
    out = tmp_path / "out"
    run = ("--model", demo.model, "--out", "json", "--output-dir", out)
    done = transcribe(*bad, *good, *run)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(str(path) in done.stderr for path in bad) and "RTFx" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{path.stem}.json" for path in good)
    heard = {path.stem: json.loads((out / f"{path.stem}.json").read_text(encoding="utf-8")) for path in good}
    assert cer(text, heard["대화 하나"]["text"]) < 0.12
    assert cer(heard["대화 하나"]["text"], heard["studio"]["text"]) < 0.12
    assert heard["silence"]["text"] == heard["one_sample"]["text"] == ""
    assert heard["silence"]["duration"] == pytest.approx(140)
    check_times(heard["대화 하나"], starts)

    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = transcribe(*good, *run)
    assert again.returncode == 0 and "4 files are done already" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_the_written_form_stands_beside_the_spoken_one(demo, conversation, tmp_path: Path) -> None:
    _, samples, _ = conversation
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    (tmp_path / "terms.txt").write_text("고양이 -> 야옹이\n", encoding="utf-8")
    options = (tmp_path / "a.flac", "--model", demo.model, "--terms", tmp_path / "terms.txt")
    done = {kind: transcribe(*options, "--out", kind) for kind in ("json", "txt", "vtt")}
    assert all(one.returncode == 0 for one in done.values()), done
    data = json.loads(done["json"].stdout)
    assert data["written"] == " ".join(one["written"]["text"] for one in data["utterances"])
    assert "야옹이" in data["written"] and "고양이" in data["text"]
    finisher = Finisher(FinishOptions(terms={"고양이": "야옹이"}))
    assert [one["written"]["text"] for one in data["utterances"]] == [
        finisher(one["text"]).text for one in data["utterances"]
    ]
    for one in data["utterances"]:
        spoken, written = one["words"], one["written"]["words"]
        assert sorted({k for word in written for k in word["sources"]}) == list(range(len(spoken)))
        times = [time for word in written for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times) and (times[0], times[-1]) == (one["start_ms"], one["end_ms"])
    assert done["txt"].stdout.splitlines() == [one["written"]["text"] for one in data["utterances"]]
    shown = [line for cue in done["vtt"].stdout.split("\n\n")[1:] for line in cue.splitlines()[1:]]
    assert " ".join(shown) == data["written"]
    assert max(map(width, shown)) <= 16


def test_paragraphs_hold_every_word(demo, conversation, tmp_path: Path) -> None:
    _, samples, _ = conversation
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    options = ("--model", demo.model, "--paragraphs", 20, "--punctuation", "--analyzer", "rules")
    done = [transcribe(tmp_path / "a.flac", *options, "--out", kind) for kind in ("json", "txt")]
    data = json.loads(done[0].stdout)
    assert len(data["paragraphs"]) > 2 and " ".join(data["paragraphs"]) == data["written"]
    assert all(len(one.split()) <= 20 for one in data["paragraphs"])
    assert done[1].stdout == "\n\n".join(data["paragraphs"]) + "\n"


def test_lines_of_subtitles_have_the_length_that_is_asked_for(demo, conversation, tmp_path: Path) -> None:
    _, samples, _ = conversation
    soundfile.write(tmp_path / "a.flac", samples[: 60 * 16_000], 16_000)
    options = (tmp_path / "a.flac", "--model", demo.model, "--out", "srt", "--lines", 1, "--line-length", 10)
    cues = [cue.splitlines()[2:] for cue in transcribe(*options).stdout.strip().split("\n\n")]
    assert cues and all(len(lines) == 1 for lines in cues)
    assert all(width(line) <= 10 or " " not in line for (line,) in cues)


def check_times(data: dict, starts: list[float]) -> None:
    """Utterances begin where they were put: the model may be late by its own delay, but not by a pause."""
    words = [word for utterance in data["utterances"] for word in utterance["words"]]
    assert data["text"] == " ".join(word["text"] for word in words)
    times = [time for word in words for time in (word["start_ms"], word["end_ms"])]
    assert times == sorted(times) and times[-1] < 1000 * data["duration"] + FRAME / 16  # a frame is 40 ms
    begun = np.array([utterance["start_ms"] / 1000 for utterance in data["utterances"]])
    late = [float(np.min(begun[begun > start - 0.1] - start)) for start in starts]
    assert np.median(late) < 0.5 and np.mean(np.array(late) < 0.8) > 0.9


def test_keywords_search_with_a_beam_and_tell_everything_once(model, conversation, tmp_path: Path) -> None:
    text, samples, _ = conversation
    soundfile.write(tmp_path / "long.flac", samples, 16_000)
    wide = FrameModel(model.model, top=Search(keywords=parse_keywords(["도서관"])).top)
    greedy = transcribe_file(model, tmp_path / "long.flac")
    for keywords, same in (([], True), (["도서관:3", "시장:3"], False)):
        found = transcribe_file(
            wide, tmp_path / "long.flac", search=Search(keywords=parse_keywords(keywords))
        )
        assert (found.text == greedy.text) or not same
        assert cer(text, found.text) <= cer(text, greedy.text) + 0.02
        assert len(found.utterances) == len(greedy.utterances)


def test_bad_requests_end_in_one_sentence(demo, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "x.wav", tmp_path / "a" / "x.wav"):
        soundfile.write(path, np.zeros(100), 16_000)
    several = transcribe(tmp_path / "x.wav", tmp_path / "a" / "x.wav", "--output-dir", tmp_path / "o")
    assert several.returncode == 2 and "would both be written" in several.stderr
    nowhere = transcribe(tmp_path / "x.wav", tmp_path / "a" / "x.wav")
    assert nowhere.returncode == 2 and "--output-dir" in nowhere.stderr
    style = transcribe(tmp_path / "x.wav", "--style", "comma=none")
    assert style.returncode == 2 and "'comma'" in style.stderr and style.stderr.count("\n") == 1
    model = transcribe(tmp_path / "x.wav", "--model", tmp_path / "x.wav")
    assert model.returncode == 2 and model.stderr.count("\n") == 1


def test_a_cut_through_sound_is_heard_from_both_sides() -> None:
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, 12 * 16_000).astype(np.float32)
    cutter = Segmenter(FRAME, longest=3.0, context=1.0)
    windows = cutter.push(audio) + cutter.flush()
    assert [window.pause for window in windows] == [False] * (len(windows) - 1) + [True] and len(windows) > 3
    assert [window.begin for window in windows[1:]] == [window.end for window in windows[:-1]]
    assert all(window.begin - window.start == 25 for window in windows[1:])
    assert all(len(w.samples) == (w.end + 25 - w.start) * FRAME for w in windows[:-2])


def test_buffered_inference_costs_little_and_packets_do_not_matter(model, utterances) -> None:
    recognizer = BufferedRecognizer(model, left=2.0, chunk=0.4, right=0.8)

    def heard(samples: np.ndarray, packet: int) -> list[Result]:
        session = recognizer.open(
            GreedyDecoder(DecoderSettings(model.vocabulary, model.blank_id, model.frame_ms))
        )
        results = [r for k in range(0, len(samples), packet) for r in session.push(samples[k : k + packet])]
        return results + session.flush()

    finals = [heard(samples, 1600)[-1] for _, samples in utterances]
    references = [text for text, _ in utterances]
    assert score(references, [final.text for final in finals], "plain").total("cer").rate < 0.08
    assert heard(utterances[0][1], 777)[-1] == heard(utterances[0][1], 10**6)[-1] == finals[0]
    assert any(not result.is_final for result in heard(utterances[0][1], 1600))
    session = recognizer.open(
        GreedyDecoder(DecoderSettings(model.vocabulary, model.blank_id, model.frame_ms))
    )
    for samples in (np.array([np.nan], np.float32), np.zeros((2, 100), np.float32)):
        with pytest.raises(UserError, match="one channel of finite numbers"):
            session.push(samples)
    assert session.push(np.zeros(1, np.float32)) == [] and session.flush()[-1].text == ""
    with pytest.raises(UserError, match="closed"):
        session.push(utterances[0][1])


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=12),
    st.integers(0, 5),
    st.integers(1, 6),
    st.integers(0, 4),
)
def test_context_windows_cover_every_frame_once(packets, left, chunk, right) -> None:
    audio = np.arange(sum(packets), dtype=np.float32)
    cutter = ContextWindows(FRAME, left, chunk, right)
    cuts = np.cumsum(packets)[:-1]
    windows = [w for part in np.split(audio, cuts) for w in cutter.push(part)] + cutter.flush()
    assert [f for w in windows for f in range(w.begin, w.end)] == list(range(-(-len(audio) // FRAME)))
    for window in windows:
        assert window.start == max(0, window.begin - left) and window.end - window.begin <= chunk + right
        end = min(len(audio), (window.end + right) * FRAME)
        assert np.array_equal(window.samples, audio[window.start * FRAME : end])


@given(
    st.lists(st.tuples(st.floats(0.05, 4), st.sampled_from([0, 1e-4, 0.02, 0.3])), max_size=12),
    st.integers(1, 9),
)
def test_segments_lose_nothing_but_silence(sections, packets) -> None:
    rng = np.random.default_rng(1)
    parts = [level * rng.standard_normal(int(16_000 * seconds)) for seconds, level in sections]
    audio = np.concatenate([*parts, np.zeros(0)]).astype(np.float32)
    cutter = Segmenter(FRAME, longest=3.0)
    windows = [w for part in np.array_split(audio, packets) for w in cutter.push(part)] + cutter.flush()
    covered = np.zeros(-(-len(audio) // FRAME) + 1, int)
    for window in windows:
        covered[window.begin : window.end] += 1
        assert window.start <= window.begin < window.end and len(window.samples) <= (3 + 2) * 16_000 + FRAME
        first = window.start * FRAME
        assert np.array_equal(window.samples, audio[first : first + len(window.samples)])
    assert covered.max(initial=0) <= 1
    loud = np.flatnonzero(np.abs(audio) > 0.15) // FRAME  # 7.5 times the faint sections' level
    assert covered[loud].all()


@pytest.mark.parametrize("level", [-25, -50, -65])  # dBFS of the speech
@pytest.mark.parametrize("noise", [None, -85.0])  # dBFS of the pauses; None: digital silence
def test_quiet_speech_is_heard(level: int, noise: float | None) -> None:
    """A few syllables, each rising and falling by 30 dB, in half a minute of silence or faint noise."""
    rng = np.random.default_rng(0)
    audio = rng.standard_normal(30 * 16_000) * (0.0 if noise is None else 10 ** (noise / 20))
    swell = 10 ** ((30 * np.abs(np.sin(np.arange(2 * 16_000) * np.pi / 4_000)) - 30 + level) / 20)
    audio[10 * 16_000 : 12 * 16_000] += swell * rng.standard_normal(2 * 16_000)
    cutter = Segmenter(FRAME)
    windows = cutter.push(audio.astype(np.float32)) + cutter.flush()
    covered = [frame for window in windows for frame in range(window.begin, window.end)]
    assert set(range(251, 299)) <= set(covered)
    assert len(covered) < 150 or level - (noise or -120) < 30  # the rest is dropped, where it is clear


@pytest.mark.parametrize("level", [-65, -100])
def test_faint_noise_alone_is_dropped(level: int) -> None:
    noise = 10 ** (level / 20) * np.random.default_rng(0).standard_normal(30 * 16_000)
    cutter = Segmenter(FRAME)
    assert cutter.push(noise.astype(np.float32)) + cutter.flush() == []


def test_frames_between_windows_are_blank() -> None:
    def frames(count: int, token: int) -> Frames:
        return Frames(np.full((count, 1), token, np.int32), np.zeros((count, 1), np.float32))

    nothing, line = np.zeros(0, np.float32), FrameLine(blank_id=9)
    first = line.add(Window(nothing, 0, 0, 4, pause=True), frames(5, 1))  # one frame more than the audio
    second = line.add(Window(nothing, 6, 6, 8), frames(4, 2))  # two frames of right context
    third = line.add(Window(nothing, 6, 8, 10), frames(6, 3))
    assert [part.ids.ravel().tolist() for part in (first, second, third)] == [[1] * 5, [9, 2, 2], [3, 3]]


def test_resampling_in_blocks_equals_resampling_at_once(tmp_path: Path, utterances) -> None:
    samples = np.tile(utterances[0][1], 8)
    soundfile.write(tmp_path / "x.wav", samples, 22_050, subtype="FLOAT")
    with AudioStream(tmp_path / "x.wav") as audio:
        streamed = np.concatenate(list(audio))
    assert np.allclose(streamed, soxr.resample(samples, 22_050, 16_000, quality="HQ"), atol=1e-5)


def test_times_do_not_depend_on_what_comes_first(model, utterances, tmp_path: Path) -> None:
    """The same utterance after 30 s of silence: the same words, thirty seconds later."""
    quiet = np.zeros(30 * 16_000, np.float32)
    soundfile.write(tmp_path / "a.wav", np.r_[quiet[:16_000], utterances[0][1]], 16_000)
    soundfile.write(tmp_path / "b.wav", np.r_[quiet[:16_000], quiet, utterances[0][1]], 16_000)
    a, b = (transcribe_file(model, tmp_path / name).utterances[0].words for name in ("a.wav", "b.wav"))
    assert [(w.text, w.start_ms + 30_000) for w in a] == [(w.text, w.start_ms) for w in b]
