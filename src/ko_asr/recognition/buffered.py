"""Audio without end through a model that wants context on both sides: windows and their joining.

A window is a chunk of the model's own frames with left and right context round it. Its forward pass is a
full one: attention, convolutions and the normalisation of the features (``per_feature``: mean and deviation
of each mel bin over this window, context included) see the window and nothing else. So the output is that of
the whole audio only approximately; bench/long_audio.py measures the difference in CER.

Windows are joined frame by frame where one chunk ends and the next begins; repeats are merged afterwards over
the whole line of frames, so that a token which lies on a seam is neither cut nor doubled. Moving the seam to
where both windows agree was measured on the synthetic demo to be worse (2.5 % CER for 2.2 %): it takes frames
from further into the right context, which know less of what follows.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ko_asr.errors import UserError
from ko_asr.models.frame_model import FrameModel, Frames, blank_frames
from ko_asr.recognition.window import SampleBuffer, Window
from ko_asr.runtime.results import Decoder, Result


class ContextWindows:
    """Cut a stream into chunks with context, all sizes in encoder frames."""

    def __init__(self, frame_samples: int, left: int, chunk: int, right: int) -> None:
        """ValueError unless ``chunk`` is positive and the contexts are not negative."""
        if chunk < 1 or left < 0 or right < 0:
            raise ValueError(f"chunk must be positive and contexts not negative: {left}, {chunk}, {right}")
        self._left, self._chunk, self._right = left, chunk, right
        self._buffer = SampleBuffer(frame_samples)
        self._begin = 0

    def push(self, samples: np.ndarray) -> list[Window]:
        """The windows that ``samples`` (float32 [n]) complete."""
        self._buffer.append(samples)
        found = []
        while self._buffer.whole >= self._begin + self._chunk + self._right:
            found.append(self._window(self._begin + self._chunk))
        return found

    def flush(self) -> list[Window]:
        """The window of what is left, if anything is."""
        return [self._window(self._buffer.total, pause=True)] if self._buffer.total > self._begin else []

    def _window(self, end: int, pause: bool = False) -> Window:
        start = max(0, self._begin - self._left)
        window = Window(self._buffer.between(start, end + self._right), start, self._begin, end, pause)
        self._begin = end
        self._buffer.drop_before(end - self._left)
        return window


class FrameLine:
    """Windows' own frames in one line; frames between windows that do not touch are blank."""

    def __init__(self, blank_id: int) -> None:
        self._blank_id = blank_id
        self._frame = 0  # the next frame to give

    def add(self, window: Window, frames: Frames) -> Frames:
        """The frames [T, K] that follow, from those of the whole window. Windows come in order."""
        begin = max(window.begin, self._frame)
        # A causal subsampling gives one frame more than the audio has; only before a pause it is no repeat.
        own = frames.part(
            begin - window.start, len(frames.ids) if window.pause else window.end - window.start
        )
        gap = blank_frames(begin - self._frame, self._blank_id, frames.ids.shape[1])
        self._frame = begin + len(own.ids)
        return Frames(*(np.concatenate(arrays) for arrays in zip(gap, own, strict=True)))


class BufferedRecognizer:
    """Live recognition with a full-context model: `streaming` is exact, these windows are not.

    Latency is ``chunk + right`` seconds of audio and one forward pass over ``left + chunk + right``.
    """

    def __init__(self, model: FrameModel, left: float = 4.0, chunk: float = 1.0, right: float = 1.0) -> None:
        """Contexts and chunk in seconds."""
        if left + chunk + right > model.longest_seconds():
            raise UserError(
                f"a window of {left + chunk + right:g} s is more than the model's positional table"
            )
        self.model = model
        self._sizes = tuple(model.frames(seconds) for seconds in (left, chunk, right))

    def open(self, decoder: Decoder) -> "BufferedSession":
        """A session whose frames go to ``decoder``."""
        windows = ContextWindows(self.model.frame_samples, *self._sizes)
        return BufferedSession(windows, self.model, FrameLine(self.model.blank_id), decoder)


class BufferedSession:
    """One live stream. Not for several threads at once."""

    def __init__(
        self,
        windows: ContextWindows,
        model: Callable[[Sequence[np.ndarray]], list[Frames]],
        line: FrameLine,
        decoder: Decoder,
    ) -> None:
        self._windows, self._model, self._line, self.decoder = windows, model, line, decoder
        self._open = True

    def push(self, samples: np.ndarray) -> list[Result]:
        """Results of float32 samples [n] in -1..1 at the model's rate, n of any size.

        Raises UserError on NaN, on samples of another shape, and on a session that was flushed or closed.
        """
        samples = np.asarray(samples, np.float32)
        if not self._open:
            raise UserError("the session is closed: open another one")
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise UserError("samples must be one channel of finite numbers")
        return self._decode(self._windows.push(samples))

    def flush(self) -> list[Result]:
        """The audio has ended: results of the rest, the last one final. The session is closed then."""
        results = self._decode(self._windows.flush()) + self.decoder.finish() if self._open else []
        self._open = False
        return results

    def close(self) -> None:
        """End the session without an answer."""
        self._open = False

    def _decode(self, windows: Sequence[Window]) -> list[Result]:
        results: list[Result] = []
        for window in windows:
            results += self.decoder.accept(*self._line.add(window, self._model([window.samples])[0]))
        return results
