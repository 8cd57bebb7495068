"""Frame arithmetic and the CTC feasibility law: integer rules that training, export and serving share.

Sources: NeMo 3.0 ``FilterbankFeatures.get_seq_len`` (centred STFT, ``length = samples // hop``) and
``ConvSubsampling``/``calc_length`` for depthwise-striding subsampling (kernel 3, stride 2 a stage).
Feasibility: Graves et al. 2006, section 3: a path needs a blank between equal neighbours.
"""

from collections.abc import Sequence
from itertools import pairwise

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples a log-mel frame: 10 ms
DEFAULT_MAX_INFEASIBLE = 0.01  # share of utterances above which training refuses to start


def samples_of(duration: float) -> int:
    """Samples in ``duration`` seconds at 16 kHz."""
    return round(duration * SAMPLE_RATE)


def mel_frames(samples: int) -> int:
    """Valid log-mel frames NeMo counts for ``samples`` of audio at 16 kHz.

    >>> mel_frames(16000), mel_frames(159)
    (100, 0)
    """
    return samples // HOP


def encoder_frames(mel: int, subsampling: int = 8, causal: bool = False) -> int:
    """Encoder frames from ``mel`` log-mel frames; ``subsampling`` is a power of two (ValueError if not).

    A stage (kernel 3, stride 2) gives ceil(L/2) with symmetric padding, floor(L/2) + 1 with causal padding.

    >>> encoder_frames(100), encoder_frames(101), encoder_frames(100, 4), encoder_frames(100, causal=True)
    (13, 13, 25, 14)
    """
    if subsampling < 1 or subsampling & (subsampling - 1):
        raise ValueError(f"subsampling must be a power of two, not {subsampling}")
    for _ in range(subsampling.bit_length() - 1):
        mel = mel // 2 + 1 if causal else (mel + 1) // 2
    return mel


def required_frames(tokens: Sequence[int]) -> int:
    """Encoder frames that CTC needs at least for ``tokens``: one a token, one more between equal neighbours.

    >>> required_frames([5, 5, 7]), required_frames([])
    (4, 0)
    """
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def is_feasible(tokens: Sequence[int], duration: float, subsampling: int = 8, causal: bool = False) -> bool:
    """True when some CTC path can spell ``tokens`` in ``duration`` seconds of audio.

    >>> is_feasible([1] * 12, 1.0), is_feasible([1, 2] * 6, 1.0), is_feasible([1] * 12, 1.0, subsampling=4)
    (False, True, True)
    """
    return encoder_frames(mel_frames(samples_of(duration)), subsampling, causal) >= required_frames(tokens)
