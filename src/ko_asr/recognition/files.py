"""Whole files of any length to timed utterances, in memory that does not grow with them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ko_asr.audio.stream import AudioStream
from ko_asr.errors import printable
from ko_asr.finishing.options import FinishOptions
from ko_asr.models.frame_model import FrameModel, Frames
from ko_asr.recognition.buffered import FrameLine
from ko_asr.recognition.search import Search
from ko_asr.recognition.segmentation import Segmenter
from ko_asr.recognition.transcript import Transcript, paragraphs_of
from ko_asr.recognition.window import Window
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.endpoint import EndpointRules

# Files are split into utterances as a live stream is; silence alone is no result of a file.
UTTERANCES = EndpointRules(silence_without_speech_ms=None)
GREEDY = Search()
_BATCHES_AHEAD = 4  # batches' worth of windows that are sorted by length, so that little is padding


def transcribe_file(
    model: FrameModel,
    path: str | Path,
    *,
    longest: float = 20.0,
    batch_seconds: float = 30.0,
    offset_ms: float = 0.0,
    on_progress: Callable[[float], object] = lambda seconds: None,
    search: Search = GREEDY,
    written: FinishOptions | None = None,
) -> Transcript:
    """Transcribe one file, of any length and any format that `AudioStream` reads. UserError as there.

    ``longest`` is that of a window and ``batch_seconds`` that of a padded batch, in seconds; ``offset_ms`` is
    added to every time. ``search`` with a beam needs a model that keeps ``search.top`` tokens a frame.
    With ``written`` the utterances have their written form, and the transcript paragraphs of it where that
    asks for them. ``on_progress`` is called with the seconds of audio that each step has done.

        model = FrameModel.load("model.nemo")
        print(transcribe_file(model, "speech.wav").text)
    """
    settings = DecoderSettings(model.vocabulary, model.blank_id, model.frame_ms, UTTERANCES, offset_ms)
    decoder = search.decoder(settings, written)
    line, results, done = FrameLine(model.blank_id), [], 0.0
    with AudioStream(path, model.sample_rate) as audio:
        windows = _windows(audio, Segmenter(model.frame_samples, model.sample_rate, longest=longest))
        for window, frames in recognize(model, windows, batch_seconds):
            results += decoder.accept(*line.add(window, frames))
            if window.pause:  # no word goes on behind it
                results += decoder.finish()
            seconds = window.end * model.frame_ms / 1000.0
            on_progress(seconds - done)
            done = seconds
        results += decoder.finish()
        on_progress(audio.duration - done)
    finals = tuple(result for result in results if result.is_final and result.words)
    most = written.paragraph_max if written and written.paragraph_splitter else 0
    return Transcript(printable(path), audio.duration, finals, paragraphs_of(finals, most) if most else ())


def _windows(blocks: Iterable[np.ndarray], segmenter: Segmenter) -> Iterator[Window]:
    for block in blocks:
        yield from segmenter.push(block)
    yield from segmenter.flush()


def recognize(
    model: FrameModel, windows: Iterator[Window], batch_seconds: float
) -> Iterator[tuple[Window, Frames]]:
    """Each window with its frames, in order. The next ones are read by a thread while the model works."""
    samples = batch_seconds * model.sample_rate
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(_gather, windows, _BATCHES_AHEAD * samples)
        while gathered := ahead.result():
            ahead = reader.submit(_gather, windows, _BATCHES_AHEAD * samples)
            yield from zip(gathered, _by_length(model, gathered, samples), strict=True)


def _gather(windows: Iterator[Window], samples: float) -> list[Window]:
    found: list[Window] = []
    held = 0
    for window in windows:
        found.append(window)
        held += len(window.samples)
        if held >= samples:
            break
    return found


def _by_length(model: FrameModel, windows: list[Window], samples: float) -> list[Frames]:
    """Frames of each window, run in batches of like length whose padded size is within ``samples``."""
    answers: dict[int, Frames] = {}
    batch: list[int] = []
    for k in sorted(range(len(windows)), key=lambda k: -len(windows[k].samples)):
        if batch and len(windows[batch[0]].samples) * (len(batch) + 1) > samples:
            answers |= zip(batch, model([windows[j].samples for j in batch]), strict=True)
            batch = []
        batch.append(k)
    answers |= zip(batch, model([windows[j].samples for j in batch]), strict=True)
    return [answers[k] for k in range(len(windows))]
