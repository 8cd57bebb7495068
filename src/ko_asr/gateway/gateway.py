"""What all requests of one gateway share, and the steps that every request with audio takes."""

from collections.abc import Sequence

from fastapi import Request
from starlette.websockets import WebSocket

from ko_asr.gateway.access.accounts import Accounts
from ko_asr.gateway.access.tokens import Tokens
from ko_asr.gateway.audio.decode import Decoded, Decoders, decode_channels
from ko_asr.gateway.audio.folders import RequestFolder, Workspace
from ko_asr.gateway.audio.upload import Form, drain, receive
from ko_asr.gateway.audio.wanted import Wanted
from ko_asr.gateway.caller import Caller, caller_of
from ko_asr.gateway.database import Database
from ko_asr.gateway.engine.channels import channel_parts
from ko_asr.gateway.engine.engines import engine_maker
from ko_asr.gateway.engine.heard import Heard, heard_of
from ko_asr.gateway.engine.keywords import Keywords, usable
from ko_asr.gateway.engine.long_audio import parts
from ko_asr.gateway.engine.recogniser import Recogniser
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.live.inbox import Sockets
from ko_asr.gateway.live.speech import Speech, Take
from ko_asr.gateway.metrics import Metrics
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.gateway.written.finishing import Finishing
from ko_asr.gateway.written.request import Asked


class Gateway:
    """Connection, folders, threads and figures. Use it in ``async with``."""

    def __init__(self, settings: Settings, metrics: Metrics, sockets: Sockets | None = None) -> None:
        """Open what outlives the process: UserError where that fails."""
        self.settings, self.metrics, self.sockets = settings, metrics, sockets or Sockets()
        self.database = Database(settings.jobs.database_url)
        self.tokens = Tokens.shared(self.database)
        self.accounts = Accounts(self.database, self.tokens) if settings.access.keys else None
        self._make_engine = engine_maker(settings, metrics)

    async def __aenter__(self) -> "Gateway":
        self.workspace = Workspace(self.settings.folder, self.settings.max_requests)
        self.recogniser = Recogniser(self.settings, self._make_engine())
        self.decoders, self.finishing = Decoders(), Finishing()
        await self.finishing.prepare()
        if self.accounts:
            await self.accounts.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.recogniser.__aexit__()
        self.decoders.close()
        self.finishing.close()
        self.workspace.close()
        if self.accounts:
            await self.accounts.__aexit__()
        self.database.close()

    def check_database(self) -> None:
        """Raise ApiError where the database's file was deleted and cannot be written again."""
        if self.database.file and self.database.file.lost:
            sentence = "the gateway's database file is gone and cannot be written again: see its log"
            raise ApiError(503, sentence, code="database", retry_after=5)

    def caller(self, name: str) -> Caller:
        """Who made a request by his name, for work that goes on when it is over."""
        return self.accounts.caller(name) if self.accounts else Caller(name)

    async def request_folder(self, request: Request) -> RequestFolder:
        """A folder for ``request``, to be removed by the caller. ApiError when there is no place."""
        try:
            return self.workspace.request_folder(caller_of(request).name if self.accounts else None)
        except ApiError:
            await drain(request, self.settings.max_upload)
            raise

    async def receive(self, request: Request, folder: RequestFolder, file_field: str) -> Form:
        """Read the request's form, with its file. ApiError when it has none."""
        form = await receive(request, file_field, folder, self.settings)
        if form.file_bytes is None:
            how = f"send it as a file part, as curl -F {file_field}=@speech.wav does"
            raise ApiError(400, f"{file_field} is missing: {how}", param=file_field)
        return form

    async def keywords(self, request: Request, wanted: Keywords) -> tuple[str, ...]:
        """The keywords of ``wanted`` that the model takes. ApiError."""
        return await usable(self.recogniser.try_keywords, wanted, caller_of(request))

    async def decode(
        self, request: Request, folder: RequestFolder, file_field: str, wanted: Wanted
    ) -> list[Decoded]:
        """Decode what was received: all channels as one, or each for itself. ApiError."""
        audio = await decode_channels(folder, file_field, self.settings, self.decoders, wanted)
        seconds = sum(channel.seconds for channel in audio)
        caller_of(request).spend(seconds)
        self.metrics.audio.inc(seconds)
        return audio

    async def transcribe(
        self,
        request: Request,
        audio: Sequence[Decoded],
        keywords: tuple[str, ...] = (),
        asked: Asked | None = None,
    ) -> Heard:
        """Recognise all of every channel, and write it as ``asked``. ApiError."""
        caller = caller_of(request)
        if len(audio) > 1:
            found = await channel_parts(audio, self.recogniser, self.settings, caller, keywords)
        else:
            one = parts(audio[0], self.recogniser, self.settings, caller, keywords)
            found = [[part async for part in one]]
        return await self.finishing.finished(heard_of(found, audio[0].seconds), asked)

    async def stream_keywords(self, websocket: WebSocket, wanted: Keywords) -> tuple[str, ...]:
        """The keywords of ``wanted`` that the model of live speech takes. ApiError."""
        return await usable(self.recogniser.try_stream_keywords, wanted, caller_of(websocket))

    def speech(self, websocket: WebSocket, take: Take) -> Speech:
        """The live speech of a WebSocket; ``take`` gets what is heard."""
        caller = caller_of(websocket)
        return Speech(self.recogniser, self.finishing, self.metrics, self.settings.ffmpeg, caller, take)
