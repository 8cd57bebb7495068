"""Whether audio is silence by its level. Runs inside the server: numpy only.

Features that are normalised to the recording carry no level: to such a model a microphone that is off is as
loud as speech, and it answers with words. So the level is looked at before the features are computed.
"""

import numpy as np

# In dB, 0 for a full-scale square wave. Rounding to 16 bits and the noise of a good microphone lie below,
# quiet speech far above.
SILENCE_DBFS = -70.0
# The length in log-mel frames of what is taken for silence. No audio has it; subsampling leaves it negative.
SILENT_FRAMES = -1024
_WINDOW = 400  # samples, 25 ms at 16 kHz: a window of the features
_STEP = 40 * _WINDOW  # a second: speech shows in the first one or two, and the rest is not looked at


def is_silent(audio: np.ndarray, limit_dbfs: float | None) -> bool:
    """True when no 25 ms of ``audio`` [n] have a root mean square of ``limit_dbfs``; never with None.

    A constant offset, which is no sound, is left out.

    >>> quiet = np.tile(np.float32([0.001, -0.001]), 800)  # -60 dBFS
    >>> is_silent(quiet, -59.0), is_silent(quiet, -61.0), is_silent(quiet + 0.5, -59.0)
    (True, False, True)
    """
    if limit_dbfs is None:
        return False
    limit = 10 ** (limit_dbfs / 10)
    for start in range(0, len(audio), _STEP):
        part = audio[start : start + _STEP]
        # The last window of a recording reaches back, so that it is a whole one.
        whole = part[: len(part) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
        last = audio[max(0, start + len(part) - _WINDOW) : start + len(part)]
        if max(whole.var(axis=1).max(initial=0.0), last.var()) >= limit:
            return False
    return True
