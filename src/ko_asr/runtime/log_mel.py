"""Log-mel features in numpy, equal to NeMo's ``FilterbankFeatures`` at inference (dither 0).

The window and the mel filters are NeMo's own arrays, saved by export, so no audio library is needed where
the server runs. Source of every step: ``nemo/collections/asr/parts/preprocessing/features.py`` (NeMo 3.0).
"""

import threading
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

try:
    from scipy.fft import rfft  # in single precision, several frames at once: half of numpy's time
except ImportError:  # the server needs numpy only
    from numpy.fft import rfft

# The largest sample taken. Audio lies in -1..1; with any window and filters in use, the float32 power of
# samples up to here is finite.
LOUDEST = 1e9
STD_GUARD = 1e-5  # NeMo's CONSTANT in normalize_batch
_BLOCK = 128  # frames a step: the spectra stay in the cache, and few calls do much
_BANDS = 4
_OF_THREAD = threading.local()


def _space(n_fft: int, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """This thread's arrays for a block: windowed frames, zero after ``window``, and two of spectra.

    Kept, because memory that is taken and given back costs more in page faults than the transform.
    """
    spaces: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = _OF_THREAD.__dict__
    if (key := f"{n_fft}, {window}") not in spaces:
        frames = np.zeros((_BLOCK, n_fft), np.float32)
        spaces[key] = frames, *np.empty((2, _BLOCK, n_fft // 2 + 1), np.float32)
    return spaces[key]


@dataclass(frozen=True)
class LogMel:
    """The front end of one model: float32 samples [n] in, features [mels, n // hop] out."""

    window: np.ndarray  # float32 [window samples]
    filters: np.ndarray  # float32 [mels, n_fft // 2 + 1]
    n_fft: int
    hop: int
    preemphasis: float
    log_guard: float  # added to the mel energies before the logarithm
    normalize: str  # "per_feature" or "NA"

    @classmethod
    def load(cls, path: str | Path) -> "LogMel":
        """Read what `save` wrote. Raises OSError or KeyError on another file."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                window=arrays["window"],
                filters=arrays["filters"],
                n_fft=int(arrays["n_fft"]),
                hop=int(arrays["hop"]),
                preemphasis=float(arrays["preemphasis"]),
                log_guard=float(arrays["log_guard"]),
                normalize=str(arrays["normalize"]),
            )

    def save(self, path: str | Path) -> None:
        """Write the front end as one .npz file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def min_samples(self) -> int:
        """The least audio that gives features: one window, and two frames for the standard deviation."""
        return max(len(self.window), 2 * self.hop)

    def frames(self, samples: int) -> int:
        """Valid frames NeMo counts for ``samples``."""
        return samples // self.hop

    @cached_property
    def _bands(self) -> list[tuple[slice, slice, np.ndarray]]:
        """(mels, bins, their filters): a filter is zero outside its bins, so four products cost a quarter."""
        bands = []
        for mels in np.array_split(np.arange(len(self.filters)), _BANDS):
            used = np.flatnonzero(self.filters[mels].any(axis=0))
            rows, bins = slice(mels[0], mels[-1] + 1), slice(used[0], used[-1] + 1)
            bands.append((rows, bins, np.ascontiguousarray(self.filters[rows, bins])))
        return bands

    def energies(self, audio: np.ndarray) -> np.ndarray:
        """Mel power [mels, frames] of ``audio`` [n]: pre-emphasis, centred zero-padded STFT, mel filters."""
        edge = (self.n_fft - len(self.window)) // 2  # torch.stft centres the window in n_fft
        start = self.n_fft // 2 - edge
        padded = np.zeros(start + len(audio) + len(self.window), np.float32)
        padded[start : start + len(audio)] = audio
        padded[start + 1 : start + len(audio)] -= np.float32(self.preemphasis) * audio[:-1]
        return self.energies_of(self.windows(padded, self.frames(len(audio))))

    def energies_of(self, windows: np.ndarray) -> np.ndarray:
        """Mel power [mels, frames] of pre-emphasised ``windows`` [frames, window]."""
        energies = np.empty((len(self.filters), len(windows)), np.float32)
        shaped, power, imaginary = _space(self.n_fft, len(self.window))
        for start in range(0, len(windows), _BLOCK):
            block = windows[start : start + _BLOCK]
            rows, end = slice(0, len(block)), start + len(block)
            # Where the window lies inside n_fft turns the phase only, and power has none: it is not centred.
            np.multiply(block, self.window, out=shaped[rows, : len(self.window)])
            spectrum = rfft(shaped[rows], axis=1)
            # Squared into float32: numpy 1 transforms in double precision.
            np.square(spectrum.real, out=power[rows])
            power[rows] += np.square(spectrum.imag, out=imaginary[rows])
            for mels, used, filters in self._bands:
                np.matmul(filters, power[rows, used].T, out=energies[mels, start:end])
        return energies

    def windows(self, samples: np.ndarray, count: int) -> np.ndarray:
        """The first ``count`` windows of contiguous float32 ``samples`` [n], [count, window], as views.

        Bounds are checked. numpy's own ``sliding_window_view`` takes as long as the transform of ten frames.
        """
        step = samples.itemsize
        shape = (count, len(self.window))
        return np.ndarray(shape, np.float32, samples, strides=(self.hop * step, step))

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Features float32 [mels, n // hop] of float32 ``audio`` [n] in -1..1, n at least `min_samples`."""
        features = self.energies(audio)
        features += np.float32(self.log_guard)
        np.log(features, out=features)
        if self.normalize != "per_feature":
            return features
        features -= features.mean(axis=1, keepdims=True)
        variance = np.einsum("mt,mt->m", features, features) / (features.shape[1] - 1)
        features /= (np.sqrt(variance) + np.float32(STD_GUARD))[:, None]
        return features
