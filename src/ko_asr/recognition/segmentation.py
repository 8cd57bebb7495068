"""Cut hours of audio at silences, while it is read, into windows that a model takes as training clips.

By energy and not by the model's own blanks: energy is known before the model runs, so windows can be batched,
and it costs nothing beside the model. Energy needs no true threshold here, because nothing is thrown away
but clear silence: a window ends in a pause, or else at the quietest place of its second half, and where that
is no pause both neighbours get `context` seconds across the cut and are joined frame by frame.
"""

import numpy as np

from ko_asr.recognition.window import SampleBuffer, Window

SILENCE = -60.0  # dBFS: quieter is silence beside speech of ordinary level, or where there is noise alone
_DIGITAL_SILENCE = -90.0  # dBFS: quieter is silence in any recording
_BELOW_SPEECH = 30.0  # dB: quiet speech is not cut nearer to its own level than this
_ABOVE_NOISE = 10.0  # dB that steady noise varies
_HISTORY = 60.0  # seconds from which the levels of noise and speech are learnt
_SPREAD = 15.0  # dB between noise and speech, below which a pause cannot be told by its level
_ABOVE_FLOOR = 0.35  # of that spread: what is quieter is a pause


class Segmenter:
    """Windows at silences. Times in seconds, rounded to encoder frames."""

    def __init__(
        self,
        frame_samples: int,
        sample_rate: int = 16_000,
        *,
        longest: float = 20.0,
        pause: float = 0.6,
        before: float = 0.2,
        after: float = 0.1,
        context: float = 1.0,
    ) -> None:
        """``longest`` window; ``pause``: silence that always ends one; ``before`` and ``after``: how much of
        it is kept there. A model that was trained on closely cut clips writes nonsense after more.

        ValueError when the times do not fit into each other.
        """
        if not 0 < before + after <= pause < longest or min(before, after, context) < 0:
            times = f"{before:g} + {after:g}, {pause:g}, {longest:g} s"
            raise ValueError(f"need 0 < before + after <= pause < longest, not {times}")
        self._frame_samples = frame_samples

        def frames(seconds: float) -> int:
            return max(1, round(seconds * sample_rate / frame_samples))

        self._longest, self._pause = frames(longest), frames(pause)
        self._before, self._after = frames(before), frames(after)
        self._context, self._history = frames(context) if context else 0, frames(_HISTORY)
        self._buffer = SampleBuffer(frame_samples)
        self._levels = np.zeros(0)  # dBFS of each whole frame since `_origin`
        self._origin = 0
        self._begin = 0
        self._joined = False  # whether the last cut went through sound

    def push(self, samples: np.ndarray) -> list[Window]:
        """The windows that ``samples`` (float32 [n] in -1..1) complete."""
        known = self._buffer.whole
        self._buffer.append(samples)
        self._measure(known, self._buffer.whole)
        found: list[Window] = []
        while self._buffer.whole - self._begin >= self._longest + max(self._context, self._pause):
            found += self._next(self._buffer.whole, last=False)
        return found

    def flush(self) -> list[Window]:
        """The windows of what is left: the audio has ended."""
        self._measure(self._buffer.whole, self._buffer.total)
        found: list[Window] = []
        while self._begin < self._buffer.total:
            found += self._next(self._buffer.total, last=True)
        return found

    def _measure(self, begin: int, end: int) -> None:
        samples = self._buffer.between(begin, end)
        whole = np.zeros((end - begin, self._frame_samples), np.float32)
        whole.ravel()[: len(samples)] = samples
        power = np.einsum("ij,ij->i", whole, whole, dtype=np.float64) / self._frame_samples
        self._levels = np.append(self._levels, 10 * np.log10(power + 1e-12))

    def _threshold(self) -> float:
        """The level in dBFS below which a frame is silent.

        Speech may be at -50 dBFS or less, where a microphone was far or turned down: what is silence depends
        on the levels of this recording, and no fixed level is silence but that of 16-bit rounding.
        """
        floor, speech = np.percentile(self._levels, (10, 95))
        if speech - floor < _SPREAD:  # noise alone, or noise with little speech in it
            return max(_DIGITAL_SILENCE, min(SILENCE, floor + _ABOVE_NOISE))
        lowest = max(_DIGITAL_SILENCE, min(SILENCE, speech - _BELOW_SPEECH))
        return max(lowest, floor + _ABOVE_FLOOR * (speech - floor))

    def _next(self, stop: int, last: bool) -> list[Window]:
        """Skip silence or give a window of what lies before ``stop``; either way `_begin` moves on."""
        levels = self._levels[self._begin - self._origin : stop - self._origin]
        threshold = self._threshold()
        silent = levels < threshold
        if last and silent.all():
            self._advance(stop, pause=True)
            return []
        lead = len(silent) if silent.all() else int(np.argmin(silent))
        if lead > self._before:
            self._advance(self._begin + lead - self._before, pause=True)
            return []
        end, pause = self._cut(levels, silent, threshold)
        return [self._window(self._begin + end, pause)]

    def _cut(self, levels: np.ndarray, silent: np.ndarray, threshold: float) -> tuple[int, bool]:
        """The frame to cut at, and True where it is in a pause."""
        edges = np.flatnonzero(np.diff(np.r_[False, silent, False].astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            if begin > 0 and end - begin >= self._pause and begin + self._after <= self._longest:
                return int(begin) + self._after, True
        if len(levels) <= self._longest:
            return len(levels), True
        smooth = np.convolve(levels, np.ones(self._before) / self._before, "same")
        half = self._longest // 2
        quietest = half + int(np.argmin(smooth[half : self._longest]))
        return quietest, bool(smooth[quietest] < threshold)

    def _window(self, end: int, pause: bool) -> Window:
        start = max(0, self._begin - self._context) if self._joined else self._begin
        samples = self._buffer.between(start, end if pause else end + self._context)
        window = Window(samples, start, self._begin, end, pause)
        self._advance(end, pause)
        return window

    def _advance(self, begin: int, pause: bool) -> None:
        self._begin, self._joined = begin, not pause
        self._buffer.drop_before(begin - self._context)
        keep = max(0, begin - self._history - self._origin)
        self._levels, self._origin = self._levels[keep:], self._origin + keep
