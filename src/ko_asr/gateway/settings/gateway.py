"""What a gateway is started with."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ko_asr.finishing.options import FinishOptions
from ko_asr.gateway.settings.access import AccessSettings
from ko_asr.gateway.settings.corrections import CorrectionSettings
from ko_asr.gateway.settings.engine import EngineSettings
from ko_asr.gateway.settings.jobs import JobSettings
from ko_asr.runtime import tensors

DEFAULT_PORT = 9000
MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Addresses and limits of one gateway; sizes in bytes, times in seconds."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    port: int = DEFAULT_PORT
    aliases: tuple[str, ...] = ()  # further names of the model
    max_upload: int = 25 * MIB  # OpenAI's
    max_seconds: float = 1800.0  # of audio that a request may bring and wait for
    piece_seconds: float = 20.0  # longer audio is cut at silences
    max_requests: int = 64  # on board at a time, whatever they wait for
    in_flight: int = 16  # pieces at Triton at a time
    in_flight_each: int = 4  # of them of one request
    timeout: float = 60.0  # for Triton's answer
    body_timeout: float = 30.0  # without a byte of an upload
    decode_timeout: float = 120.0
    ffmpeg: str | None = None
    written: FinishOptions | None = None  # the written form in place of the spoken one, on OpenAI's routes
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    corrections: CorrectionSettings = field(default_factory=CorrectionSettings)
    jobs: JobSettings = field(default_factory=JobSettings)
    access: AccessSettings = field(default_factory=AccessSettings)

    @property
    def models(self) -> tuple[str, ...]:
        """The names that the model answers to."""
        return (tensors.ENSEMBLE, *self.aliases)
