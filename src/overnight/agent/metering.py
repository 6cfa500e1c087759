"""Reads the usage of a call out of its answer, while the answer passes by.

The meter gets every chunk after it was sent on, and nothing waits for it. It understands the two forms of an answer
of the Messages API, server-sent events and one JSON body, and is never in the way of what it does not understand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from overnight.agent.prices import Metered, metered

LONGEST = 32 * 1024 * 1024
"""Bytes of one line of a stream, or of a JSON answer, that are kept to be read."""

BYTES_A_TOKEN = 3
"""For what was never reported: rather too many tokens than too few."""
MOST_TOKENS = 1_000_000
"""The longest context: no estimate goes further, whatever was sent or asked for."""


class _Delta(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: str = ""


class _Message(msgspec.Struct):
    model: str = ""
    usage: dict[str, Any] | None = None


class _Said(msgspec.Struct):
    """An event of a stream, or a whole answer: of either only what matters here."""

    type: str = ""
    model: str = ""
    message: _Message | None = None
    delta: _Delta | None = None
    usage: dict[str, Any] | None = None


_said = msgspec.json.Decoder(_Said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a call asked for. `size` is that of its body in bytes."""

    model: str = ""
    max_tokens: int = 0
    stream: bool = False
    size: int = 0


class Meter:
    """Of one call. `metered` is what is known so far, and grows while a stream goes on."""

    def __init__(self, question: Question) -> None:
        self.metered = Metered()
        self._question = question
        self._model = question.model
        self._reported: dict[str, Any] = {}
        self._final = False
        self._characters = 0
        self._thought = 0
        self._is_stream = False
        self._kept = bytearray()
        self._lost = False

    def begin(self, content_type: str) -> None:
        self._is_stream = content_type.startswith("text/event-stream")

    def feed(self, chunk: bytes) -> None:
        if not self._is_stream:
            self._keep(chunk)
            return
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._keep(line)
            if self._kept.startswith(b"data:"):
                self._read(bytes(self._kept[5:]))
            self._kept.clear()
            self._lost = False
        self._keep(rest)

    def end(self) -> None:
        """The answer came to its end."""
        if not self._is_stream:
            self._read(bytes(self._kept))
        if not self._final:
            self.break_off()

    def break_off(self) -> None:
        """There will be no more of the answer: what is not known is estimated, and rather too high.

        An agent can hang up on a call before its usage is reported; that must not be free of charge.
        """
        question = self._question
        if not self._reported:
            self._reported["input_tokens"] = min(question.size // BYTES_A_TOKEN, MOST_TOKENS)
        seen = -(-self._characters // BYTES_A_TOKEN) if question.stream else question.max_tokens
        self._report({"output_tokens": max(min(seen, MOST_TOKENS), self.metered.usage.output_tokens)})

    def _keep(self, part: bytes) -> None:
        self._lost = self._lost or len(self._kept) + len(part) > LONGEST
        if self._lost:
            self._kept.clear()
        else:
            self._kept += part

    def _read(self, text: bytes) -> None:
        try:
            said = _said.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if said.delta is not None:
            self._see(said.delta)
        if said.message is not None:
            self._model = said.message.model or self._model
            self._report(said.message.usage or {})
        if said.usage is not None:
            self._final = True
            self._model = said.model or self._model
            self._report(said.usage)

    def _see(self, delta: _Delta) -> None:
        """A thought ends with its signature: all of it in base64, of which what was shown may be a summary."""
        self._characters += len(delta.text) + len(delta.partial_json) + len(delta.thinking)
        self._thought += len(delta.thinking)
        if delta.signature:
            self._characters += max(len(delta.signature) * 3 // 4 - self._thought, 0)
            self._thought = 0

    def _report(self, usage: Mapping[str, Any]) -> None:
        """Numbers of a stream are totals: a later one replaces an earlier one, a missing one leaves it."""
        self._reported |= {name: value for name, value in usage.items() if value is not None}
        self.metered = metered(self._model, self._reported)
