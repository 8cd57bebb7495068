"""Results of live speech as the events of OpenAI's Realtime API: one item an utterance, or a commit."""

import secrets
from typing import Any

from ko_asr.gateway.api.openai.answers import word_json
from ko_asr.gateway.api.openai.realtime_config import PARTIAL, WORDS
from ko_asr.runtime.results import Result, Word

Event = dict[str, Any]
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Items:
    """The items of one session. Every method gives the events to send, in order."""

    def __init__(self) -> None:
        self._previous: str | None = None
        self._item: str | None = None  # the one that is spoken or filled now
        self._text, self._sent = "", ""  # of it: what is final, and what its deltas have told
        self._words: list[Word] = []  # of what is final
        self.begin_ms = 0  # of its audio, or of that which is in no item yet
        self.count = 0  # of complete items
        self.include: list[str] = []  # of what OpenAI has not: realtime_config.INCLUDABLE

    def heard(self, result: Result, padding_ms: int) -> list[Event]:
        """Server VAD: a partial or a final of an utterance that begins and ends by itself."""
        events: list[Event] = []
        if self._item is None and result.text:
            self.begin_ms = max(0, result.start_ms - padding_ms)
            events.append(self._begun("input_audio_buffer.speech_started", audio_start_ms=self.begin_ms))
        return events + self._deltas(result) if result.text else events

    def ended(self, result: Result, at_ms: int, version: str) -> list[Event]:
        """Server VAD: the utterance of a final ``result`` that ended, by the rules, at ``at_ms``.

        ``version`` is that of the model, or empty.
        """
        if self._item is None:
            return []
        stopped = self._event("input_audio_buffer.speech_stopped", audio_end_ms=at_ms)
        return [stopped, *self.committed(), *self.completed(at_ms, version)]

    def filled(self, result: Result) -> list[Event]:
        """No VAD: a partial or a final of the turn that the client will commit."""
        if not result.text:
            return []
        if self._item is None:
            self._item = _id("item")
        return self._deltas(result)

    @property
    def open(self) -> bool:
        """True while an item is spoken or filled."""
        return self._item is not None

    def committed(self) -> list[Event]:
        """The item is the client's; there is one from here on, also without text."""
        if self._item is None:
            self._item = _id("item")
        item = {
            "id": self._item,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        before = {"previous_item_id": self._previous}
        return [
            self._event("input_audio_buffer.committed", **before),
            {"type": "conversation.item.added", "item": item, **before},
            {"type": "conversation.item.done", "item": item, **before},
        ]

    def completed(self, at_ms: int, version: str) -> list[Event]:
        """The text of the item, whose audio ends at ``at_ms``, is complete. ``version`` as in `ended`."""
        events = self._tell(self._text)
        usage = {"type": "duration", "seconds": round(max(0, at_ms - self.begin_ms) / 1000, 3)}
        done = self._event(f"{_TRANSCRIPTION}.completed", content_index=0, transcript=self._text, usage=usage)
        if WORDS in self.include:
            done["words"] = [word_json(word) for word in self._words]
        if version:
            done["model_version"] = version
        self._close(at_ms)
        return [*events, done]

    def failed(self, error: dict[str, Any], at_ms: int) -> list[Event]:
        """The recogniser has lost the item, if there is one."""
        if self._item is None:
            return []
        event = self._event(f"{_TRANSCRIPTION}.failed", content_index=0, error=error)
        self._close(at_ms)
        return [event]

    def dropped(self, at_ms: int) -> None:
        """The client gives up what is not committed."""
        self._item, self._text, self._sent, self.begin_ms = None, "", "", at_ms
        self._words = []

    def _close(self, at_ms: int) -> None:
        self._previous, self.count = self._item, self.count + 1
        self.dropped(at_ms)

    def _deltas(self, result: Result) -> list[Event]:
        whole = f"{self._text} {result.text}" if self._text else result.text
        if result.is_final:
            self._text = whole
            self._words += result.words
            return self._tell(whole)
        stable = self._tell(whole[: len(whole) - len(result.text) + result.stable])
        if PARTIAL not in self.include:
            return stable
        return [*stable, self._event(f"{_TRANSCRIPTION}.partial", content_index=0, text=whole)]

    def _tell(self, text: str) -> list[Event]:
        if not text.startswith(self._sent) or text == self._sent:  # a resumed stream may hear otherwise
            return []
        more, self._sent = text[len(self._sent) :], text
        return [self._event(f"{_TRANSCRIPTION}.delta", content_index=0, delta=more)]

    def _begun(self, kind: str, **fields: Any) -> Event:
        self._item = _id("item")
        return self._event(kind, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "item_id": self._item, **fields}


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
