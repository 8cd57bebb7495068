"""Live streams through the streaming model, those of each thread batched together."""

from collections.abc import Sequence

from ko_asr.client.connection import RequestRefused, StreamsFull
from ko_asr.errors import UserError
from ko_asr.gateway.engine.embedded.stepper import EmbeddedStream, Stepper
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime import failure
from ko_asr.runtime.options import StreamOptions


class Streams:
    """The streaming model in some threads, which share its places. Streams are opened in an event loop."""

    def __init__(self, recognizers: Sequence[StreamingRecognizer], limit: int) -> None:
        """Begin a thread for each of ``recognizers``; at most ``limit`` streams at a time."""
        self._contract, self._limit = recognizers[0].contract, limit
        self._steppers = [Stepper(recognizer) for recognizer in recognizers]

    @property
    def open_now(self) -> int:
        """Streams that have a place."""
        return sum(stepper.open_now for stepper in self._steppers)

    def open(self, options: StreamOptions) -> EmbeddedStream:
        """Begin a stream, in its event loop. Raises StreamsFull; RequestRefused for invalid options."""
        if self.open_now >= self._limit:
            raise StreamsFull("UNAVAILABLE", failure.no_room(self._limit).sentence)
        try:
            decoder = options.decoder(self._contract)
        except UserError as error:
            raise RequestRefused("INVALID_ARGUMENT", str(error)) from error
        stepper = min(self._steppers, key=lambda stepper: stepper.open_now)
        return EmbeddedStream(stepper, decoder, self._contract.sample_rate)

    def close(self) -> None:
        """End the threads; what is open fails."""
        for stepper in self._steppers:
            stepper.close()
