"""A multipart form, read as it comes: the audio, counted, and a few small fields.

A small upload stays in memory, where it takes less time than in a file.

Starlette's own form would put the audio into files of its own, and call a full disk a bad request.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from ko_asr.gateway.audio.folders import RequestFolder, room_on_disk
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.settings.gateway import MIB, Settings

_FIELD_BYTES = 64 << 10  # of all fields together
_PARTS = 200  # a hundred keywords among them
_AROUND_FILE = MIB  # bytes of a form that are not its file
_WRITE = 256 << 10  # bytes that are written at once, by a thread
_IN_MEMORY = MIB
_DRAIN_SECONDS = 5.0


@dataclass
class Form:
    """The fields of a form, in the order they came, and the bytes of its file (None without one)."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    file_bytes: int | None = None

    def one(self, name: str) -> str | None:
        """The value of a field; None without one. ApiError where it comes twice."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise ApiError(400, f"{name} is given {len(values)} times: give it once", param=name)
        return values[0] if values else None

    def many(self, name: str) -> list[str]:
        """The values of a list, which clients send as ``name[]`` or ``name``."""
        return [*self.fields.get(f"{name}[]", []), *self.fields.get(name, [])]


async def receive(request: Request, file_field: str, folder: RequestFolder, settings: Settings) -> Form:
    """Read the form of ``request``, with its part ``file_field`` into ``folder``.

    ApiError when it is none, too large or breaks off; ClientDisconnect when the client leaves.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        await drain(request, settings.max_upload)
        raise ApiError(415, "send the audio as multipart/form-data", param=file_field)
    try:
        reader = _Reader(file_field, boundary, settings.max_upload)
        await _save(request, reader, folder, settings.body_timeout)
    except ApiError:
        await drain(request, settings.max_upload)
        raise
    return reader.form


async def drain(request: Request, most: int) -> None:
    """Read on for a while after a refusal: a client that is still sending would see a reset instead of it."""
    if "expect" in request.headers:  # it waits for leave to send
        return
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in request.stream():
                if (most := most - len(chunk)) < 0:
                    return


async def _save(request: Request, reader: "_Reader", folder: RequestFolder, patience: float) -> None:
    file: BinaryIO | None = None
    with room_on_disk():
        try:
            async for _ in _chunks(request, reader, patience):
                if len(reader.data) >= (_IN_MEMORY if file is None else _WRITE):
                    if file is None:
                        file = await asyncio.to_thread(folder.upload.open, "wb")
                    await asyncio.to_thread(file.write, reader.take())
            if file is None:
                folder.content = bytes(reader.take())
            else:
                await asyncio.to_thread(file.write, reader.take())
        finally:
            if file is not None:
                await asyncio.to_thread(file.close)
    reader.finish()


async def _chunks(request: Request, reader: "_Reader", patience: float) -> AsyncIterator[None]:
    """Feed ``reader``, a step a chunk."""
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise ApiError(408, f"no byte of the upload came for {patience:g} s") from None
        if chunk is None:
            return
        reader.feed(chunk)
        yield


class _Reader:
    """The state of one form between chunks; ``data`` is what the file still has to get."""

    def __init__(self, file_field: str, boundary: bytes, max_upload: int) -> None:
        self.form, self.data = Form(), bytearray()
        self._file_field, self._limit = file_field, max_upload
        self._total, self._parts, self._field_bytes, self._ended = 0, 0, 0, False
        self._begin()
        with _well_formed():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name_data,
                    "on_header_value": self._header_value_data,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )

    def feed(self, chunk: bytes) -> None:
        self._total += len(chunk)
        if self._total > self._limit + _AROUND_FILE:
            raise too_large(self._limit, self._file_field)
        with _well_formed():
            self._parser.write(chunk)

    def take(self) -> bytearray:
        taken, self.data = self.data, bytearray()
        return taken

    def finish(self) -> None:
        if not self._ended:
            raise ApiError(400, "the form breaks off before its end: send it again")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _PARTS:
            raise ApiError(400, f"the form has more than {_PARTS} parts")
        self._header_name, self._header_value, self._disposition = b"", b"", b""
        self._name, self._is_file, self._value = "", False, bytearray()

    def _header_name_data(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in options
        if self._is_file and self._name == self._file_field:
            if self.form.file_bytes is not None:
                raise ApiError(400, "two files came: send one a request", param=self._file_field)
            self.form.file_bytes = 0

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._field_bytes += end - start
            if self._field_bytes > _FIELD_BYTES:
                raise ApiError(413, f"the fields of the form are larger than {_FIELD_BYTES} bytes")
            self._value += data[start:end]
        elif self._name == self._file_field:
            assert self.form.file_bytes is not None
            self.form.file_bytes += end - start
            if self.form.file_bytes > self._limit:
                raise too_large(self._limit, self._file_field)
            self.data += data[start:end]

    def _part_end(self) -> None:
        if not self._is_file:
            self.form.fields.setdefault(self._name, []).append(self._value.decode(errors="replace"))

    def _end(self) -> None:
        self._ended = True


@contextlib.contextmanager
def _well_formed() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise ApiError(400, "the form is malformed: send it as multipart/form-data") from error


def too_large(limit: int, param: str) -> ApiError:
    """The refusal of a file of more than ``limit`` bytes."""
    return ApiError(
        413,
        f"the file is larger than {limit / MIB:g} MiB: send a compressed format (FLAC, Opus, MP3), or parts",
        param=param,
        code="file_too_large",
    )
