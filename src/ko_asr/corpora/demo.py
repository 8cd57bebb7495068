"""A synthetic corpus in KsponSpeech's layout, quirks included, for the demo and the tests.

The speech is espeak-ng's, the sentences come from ``demo_grammar.yaml``. It is written exactly as AI Hub's
corpus unpacks, so that the builder, the recipes and the export run on it unchanged. Everything is a function
of the seed: the same seed gives the same bytes, whatever the number of processes.
"""

import concurrent.futures
import functools
import importlib.resources
import math
import multiprocessing
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from ko_asr.audio.espeak import SAMPLE_RATE, VOICES, synthesize
from ko_asr.errors import UserError
from ko_asr.files import atomic_write

SYNTHETIC = "SYNTHETIC"  # a file of this name marks the corpus for the builder, the audit and people
SPLITS = ("train", "dev", "eval_clean", "eval_other")
DEFAULT_UTTERANCES = 1800
SURPLUS_BYTE = b"\n"  # every eval file of KsponSpeech has one byte too many; its value means nothing
UTTERANCES_PER_FOLDER = 1000
FOLDERS_PER_PART = 124

_SLOT = re.compile(r"\{(\w+)\}")
_DUAL = re.compile(r"\(([^()]*)\)/\(([^()]*)\)")
_PARTICLE = re.compile(r"\[(은는|이가|을를|과와|으로로|도도)\]")
_DRAWS_PER_SENTENCE = 400  # sentences of one grammar collide; this many draws without a new one is the end


@dataclass(frozen=True, slots=True)
class DemoUtterance:
    """One utterance to be written: its script path, its transcription and how it is spoken."""

    split: str
    path: str
    text: str
    spoken: str
    seed: str


@functools.cache
def grammar() -> dict:
    """Return the parsed ``demo_grammar.yaml``."""
    source = importlib.resources.files("ko_asr.corpora") / "demo_grammar.yaml"
    return yaml.safe_load(source.read_text(encoding="utf-8"))


def spoken_form(text: str) -> str:
    """Return the spoken words: the phonetic side of dual transcriptions, fillers, repetitions, no tags.

    >>> spoken_form("n/ 어/ (20개)/(스무 개)를 사+ 사*자. b/")
    '어 스무 개를 사 사자.'
    """
    text = _DUAL.sub(r"\2", text)
    text = re.sub(r"(?<!\S)[blonu]/", "", text)
    return " ".join(re.sub(r"[/+*]", "", text).split())


def draw_sentence(rng: random.Random) -> str:
    """Draw one sentence of the grammar, with dual transcriptions, without fillers, tags and marks."""
    rules = grammar()
    kind = "dual" if rng.random() < rules["dual_share"] else "plain"
    template = rng.choice(rules["templates"][kind])
    drawn: list[str] = []

    def fill(match: re.Match) -> str:
        words = [word for word in rules["slots"][match[1]] if word not in drawn]
        drawn.append(rng.choice(words))
        return drawn[-1]

    return _attach_particles(_SLOT.sub(fill, template))


def _attach_particles(text: str) -> str:
    """Resolve [은는] and its like by the spoken syllable before them."""
    done = ""
    position = 0
    for match in _PARTICLE.finditer(text):
        done += text[position : match.start()]
        done += _allomorph(spoken_form(done)[-1], match[1])
        position = match.end()
    return done + text[position:]


def _allomorph(before: str, pair: str) -> str:
    coda = (ord(before) - 0xAC00) % 28
    if pair == "으로로":
        return "로" if coda in (0, 8) else "으로"  # 8 is ㄹ: 지하철로
    return pair[0] if coda else pair[1]


def _decorate(sentence: str, rng: random.Random) -> str:
    """Add the marks of spontaneous speech: fillers, repetitions, noise tags, uncertain words."""
    rules = grammar()
    words = sentence.split()
    if rng.random() < rules["bare_ending_share"]:
        words[-1] = words[-1].rstrip(".?")
    if rng.random() < rules["star_share"] and "/" not in words[-1]:
        words[-1] += "*"
    if rng.random() < rules["repeat_share"] and not re.search(r"[(),.?]", words[0]):
        words.insert(0, words[0] + "+")
    if rng.random() < rules["filler_share"]:
        words.insert(0, rng.choice(rules["fillers"]))
    if rng.random() < rules["tag_share"]:
        words.insert(rng.choice((0, len(words))), rng.choice(rules["tags"]))
    return " ".join(words)


def _core(sentence: str) -> str:
    """Return the key of equal sentences: the spoken words without spaces and punctuation."""
    return re.sub(r"[\s.,?]", "", spoken_form(sentence))


def split_sizes(utterances: int) -> dict[str, int]:
    """Return the utterances a split: ``utterances`` for train, an eighteenth (at least 4) for the others."""
    small = max(4, round(utterances / 18))
    return {"train": utterances, "dev": small, "eval_clean": small, "eval_other": small}


def plan(utterances: int, seed: int) -> tuple[list[DemoUtterance], DemoUtterance]:
    """Plan every utterance of the corpus in script order, and one more whose sentence is in no split.

    No two utterances say the same sentence, so eval sentences never occur in train or dev.
    Raises UserError when the grammar has not enough sentences.
    """
    if sum(split_sizes(utterances).values()) > capacity() // 4:  # beyond, most draws are repetitions
        raise UserError(
            f"the demo grammar is good for {capacity() // 5} utterances; ask for fewer --utterances"
        )
    rng = random.Random(f"sentences {seed}")
    seen: set[str] = set()
    planned = []
    for split, size in split_sizes(utterances).items():
        for path in _script_paths(split, size, utterances):
            text = _decorate(_new_sentence(rng, seen), rng)
            planned.append(DemoUtterance(split, path, text, spoken_form(text), f"{seed} {split} {path}"))
    sentence = _new_sentence(rng, seen, plain=True)
    held_out = DemoUtterance("held_out", "held_out.wav", sentence, sentence, f"{seed} held_out")
    return planned, held_out


@functools.cache
def capacity() -> int:
    """Count the plain sentences that the grammar has at most."""
    rules = grammar()
    counts = (
        math.prod(len(rules["slots"][slot]) for slot in _SLOT.findall(template))
        for template in rules["templates"]["plain"]
    )
    return sum(counts)


def _new_sentence(rng: random.Random, seen: set[str], plain: bool = False) -> str:
    for _ in range(_DRAWS_PER_SENTENCE):
        sentence = draw_sentence(rng)
        core = _core(sentence)
        if core not in seen and not (plain and _DUAL.search(sentence)):
            seen.add(core)
            return sentence
    raise UserError(
        f"the demo grammar gives no more than about {len(seen)} sentences; ask for fewer --utterances"
    )


def _script_paths(split: str, size: int, train_size: int) -> Iterator[str]:
    """Yield KsponSpeech's script paths: 1,000 utterances a folder; dev starts in the folder after train's."""
    if split.startswith("eval"):
        first = 1 + (size if split == "eval_other" else 0)
        yield from (f"KsponSpeech_eval/{split}/KsponSpeech_E{n:05d}.pcm" for n in range(first, first + size))
        return
    train_folders = -(-train_size // UTTERANCES_PER_FOLDER)
    first = 0 if split == "train" else train_folders * UTTERANCES_PER_FOLDER
    for index in range(first, first + size):
        folder = index // UTTERANCES_PER_FOLDER + 1
        part = (folder - 1) // FOLDERS_PER_PART + 1
        yield f"KsponSpeech_{part:02d}/KsponSpeech_{folder:04d}/KsponSpeech_{index + 1:06d}.pcm"


def render(utterance: DemoUtterance) -> np.ndarray:
    """Speak one utterance with a voice, rate, pitch, level and room drawn from its seed: int16 [samples]."""
    rng = random.Random(utterance.seed)
    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    speech = synthesize(utterance.spoken, rng.choice(VOICES), rng.randrange(150, 211), rng.randrange(30, 71))
    speech = np.pad(speech, (rng.randrange(800, 3200), rng.randrange(800, 3200)))
    peak = rng.uniform(0.3, 0.8)
    snr_db = rng.uniform(25, 45)
    if utterance.split == "eval_other":
        speech = _reverberate(speech, seconds=rng.uniform(0.1, 0.3), noise=noise)
        snr_db, peak = rng.uniform(10, 22), rng.uniform(0.08, 0.9)
    elif utterance.split == "train" and rng.random() < 0.25:
        snr_db = rng.uniform(10, 25)  # some of KsponSpeech's rooms are noisy as well
    speech = speech + _coloured_noise(len(speech), noise) * np.std(speech) * 10 ** (-snr_db / 20)
    return np.round(speech * (peak / np.abs(speech).max()) * 32767).astype("<i2")


def _reverberate(speech: np.ndarray, seconds: float, noise: np.random.Generator) -> np.ndarray:
    """Convolve with a synthetic room: a direct path and a noise tail that falls by 60 dB in ``seconds``."""
    length = int(seconds * SAMPLE_RATE)
    decay = 10.0 ** (-3.0 * np.arange(length) / length)
    response = 0.1 * noise.standard_normal(length) * decay
    response[0] = 1.0
    size = 1 << (len(speech) + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(response, size), size)
    return wet[: len(speech)]


def _coloured_noise(count: int, noise: np.random.Generator) -> np.ndarray:
    """Make unit-variance noise that falls by about 3 dB an octave, like that of rooms and ventilators."""
    spectrum = np.fft.rfft(noise.standard_normal(count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0))
    shaped = np.fft.irfft(spectrum, count)
    return shaped / np.std(shaped)


def write_utterance(utterance: DemoUtterance, root: Path) -> int:
    """Write the PCM (and, beside train and dev audio, the CP949 text); return the number of samples."""
    samples = render(utterance)
    path = root / utterance.path
    is_eval = utterance.split.startswith("eval")
    path.write_bytes(samples.tobytes() + (SURPLUS_BYTE if is_eval else b""))
    if not is_eval:
        path.with_suffix(".txt").write_text(utterance.text + "\n", encoding="cp949")
    return len(samples)


def write_corpus(out: Path, utterances: int, seed: int, jobs: int, progress=iter) -> dict[str, float]:
    """Write the whole corpus under ``out`` and return the hours a split.

    The scripts come last, each whole or not at all: a killed run leaves a corpus without scripts, which the
    builder refuses. ``progress`` wraps the iterator over finished utterances.
    """
    planned, held_out = plan(utterances, seed)
    for script in SPLITS:
        (out / "scripts" / f"{script}.trn").unlink(missing_ok=True)
    for folder in sorted({(out / utterance.path).parent for utterance in planned}):
        folder.mkdir(parents=True, exist_ok=True)
    seconds = dict.fromkeys(SPLITS, 0.0)
    write = functools.partial(write_utterance, root=out)
    with _mapper(jobs) as mapper:
        for utterance, samples in progress(zip(planned, mapper(write, planned), strict=True)):
            seconds[utterance.split] += samples / SAMPLE_RATE
    _write_held_out(held_out, out / "held_out")
    with atomic_write(out / SYNTHETIC) as stream:
        stream.write("The speech in this folder is synthetic: espeak-ng, recipes/make_demo_corpus.py.\n")
    for split in SPLITS:
        with atomic_write(out / "scripts" / f"{split}.trn") as stream:
            stream.writelines(f"{u.path} :: {u.text}\n" for u in planned if u.split == split)
    return {split: total / 3600 for split, total in seconds.items()}


def _mapper(jobs: int):
    """A context that gives an ordered parallel map."""

    class Mapper:
        def __enter__(self):
            self.pool = None
            if jobs > 1:
                context = multiprocessing.get_context("spawn")
                self.pool = concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context)
                return functools.partial(self.pool.map, chunksize=16)
            return map

        def __exit__(self, *error):
            if self.pool is not None:
                self.pool.shutdown(cancel_futures=True)

    return Mapper()


def _write_held_out(utterance: DemoUtterance, folder: Path) -> None:
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "held_out.wav", "wb") as stream:
        soundfile.write(stream, render(utterance), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    with atomic_write(folder / "held_out.txt") as stream:
        stream.write(utterance.text + "\n")
