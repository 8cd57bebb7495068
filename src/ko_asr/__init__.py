"""Korean ASR on NVIDIA NeMo: the library that the scripts in recipes/, tokenizers/ and export/ share.

What is named here is the public interface; everything else may change. Names are imported when they are first
used, so that ``import ko_asr`` costs nothing and a client never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ko_asr.audio.read import read_audio
    from ko_asr.audio.source import AudioSource
    from ko_asr.client.connection import ServerError, Tls
    from ko_asr.client.offline import AsrClient, AsyncAsrClient
    from ko_asr.client.streaming import AsyncStreamingClient, StreamingClient
    from ko_asr.corpora.base import Corpus, Utterance
    from ko_asr.errors import UserError
    from ko_asr.evaluation.metrics import score
    from ko_asr.finishing.finisher import Finisher, finish
    from ko_asr.finishing.options import FinishOptions
    from ko_asr.finishing.spoken import spoken
    from ko_asr.finishing.words import Written
    from ko_asr.models.frame_model import FrameModel
    from ko_asr.recognition.files import transcribe_file
    from ko_asr.recognition.streaming import StreamingRecognizer
    from ko_asr.runtime.endpoint import EndpointRules
    from ko_asr.runtime.options import StreamOptions
    from ko_asr.text.normalizer import Normalizer, normalize

_HOMES = {
    "AsrClient": "client.offline",
    "AsyncAsrClient": "client.offline",
    "AsyncStreamingClient": "client.streaming",
    "AudioSource": "audio.source",
    "Corpus": "corpora.base",
    "EndpointRules": "runtime.endpoint",
    "FinishOptions": "finishing.options",
    "Finisher": "finishing.finisher",
    "FrameModel": "models.frame_model",
    "Normalizer": "text.normalizer",
    "ServerError": "client.connection",
    "StreamOptions": "runtime.options",
    "StreamingClient": "client.streaming",
    "StreamingRecognizer": "recognition.streaming",
    "Tls": "client.connection",
    "UserError": "errors",
    "Utterance": "corpora.base",
    "Written": "finishing.words",
    "finish": "finishing.finisher",
    "normalize": "text.normalizer",
    "read_audio": "audio.read",
    "score": "evaluation.metrics",
    "spoken": "finishing.spoken",
    "transcribe_file": "recognition.files",
}
__all__ = [
    "AsrClient",
    "AsyncAsrClient",
    "AsyncStreamingClient",
    "AudioSource",
    "Corpus",
    "EndpointRules",
    "FinishOptions",
    "Finisher",
    "FrameModel",
    "Normalizer",
    "ServerError",
    "StreamOptions",
    "StreamingClient",
    "StreamingRecognizer",
    "Tls",
    "UserError",
    "Utterance",
    "Written",
    "finish",
    "normalize",
    "read_audio",
    "score",
    "spoken",
    "transcribe_file",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
