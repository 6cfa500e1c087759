"""Server-sent events, from bytes to the data of each (the WHATWG rules). Ours say in it all that their fields say.

httpx's own line reader also splits at U+2028 and other separators that may stand unescaped inside JSON, which
would tear an event; the format knows only CR, LF and CRLF.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Parser:
    """Takes a stream in pieces of any size; `feed` returns the data of the events that are now whole."""

    _rest: bytes = b""
    _after_cr: bool = False
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[str]:
        lines = self._split(chunk)
        return [data for line in lines if (data := self._take(line)) is not None]

    def _split(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return lines

    def _take(self, line: bytes) -> str | None:
        """The data of the event that an empty line ends, if it has any."""
        if line:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = self._data, []
        return "\n".join(data) if data else None
