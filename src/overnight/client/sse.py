"""Server-sent events, from bytes to messages (the WHATWG rules).

httpx's own line reader also splits at U+2028 and other separators that may stand unescaped inside JSON, which
would tear an event; the format knows only CR, LF and CRLF.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Message:
    """One dispatched event. `retry` is the reconnection time in seconds, if the server set one before it."""

    event: str
    data: str
    id: str | None
    retry: float | None


@dataclass(slots=True)
class Parser:
    """Takes a stream in pieces of any size; `feed` returns the messages that are now whole."""

    _rest: bytes = b""
    _after_cr: bool = False
    _data: list[str] = field(default_factory=list)
    _event: str = "message"
    _id: str | None = None
    _retry: float | None = None

    def feed(self, chunk: bytes) -> list[Message]:
        lines = self._split(chunk)
        return [message for line in lines if (message := self._take(line)) is not None]

    def _split(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return lines

    def _take(self, line: bytes) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value or "message"
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry = int(value) / 1000
        return None

    def _dispatch(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], "message"
        if not data:
            return None
        return Message(event=event, data="\n".join(data), id=self._id, retry=self._retry)
