"""The head of a request to the egress proxy: read by patterns of our own, refused when in doubt.

What is passed on is written anew from what was read, with one framing of the body, so that the next server cannot
read a request out of it that was not judged here.
"""

import re
from dataclasses import dataclass

from overnight.domain.egress import Destination, destination

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])" % _TOKEN)
_HEADER = re.compile(rb"(%b):[ \t]*((?:[\x21-\xff](?:[\x20-\xff\t]*[\x21-\xff])?)?)[ \t]*" % _TOKEN)
_AUTHORITY = r"(\[[^\[\]@/?#]*\]|[^\[\]@:/?#]+)"
_CONNECT = re.compile(rf"{_AUTHORITY}:([0-9]+)")
_ABSOLUTE = re.compile(rf"http://({_AUTHORITY}(?::([0-9]+))?)(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}")

_NOT_PASSED_ON = frozenset(
    {
        b"connection",
        b"content-length",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

Headers = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """The message is for the sender of the request, and never repeats it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRequest:
    """`head` is what is to be sent on, empty for CONNECT. The body has `length` bytes; None if only its sender
    knows where it ends (chunks, a tunnel)."""

    to: Destination
    head: bytes
    length: int | None

    @property
    def is_tunnel(self) -> bool:
        return not self.head


def parse_head(head: bytes) -> ProxyRequest:
    """`head` ends with its empty line. Raises Malformed and nothing else."""
    line, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise Malformed("The request line is not one of HTTP/1.1.")
    method, target, headers = found[1], found[2].decode("ascii"), _headers(rest)
    length = _length(headers, found[3] == b"1")
    if method == b"CONNECT":
        if length != 0:
            raise Malformed("CONNECT has no body.")
        return ProxyRequest(to=_tunnel_end(target), head=b"", length=None)
    return _forwarded(method, target, headers, length)


def _headers(lines: list[bytes]) -> Headers:
    if len(lines) > MAX_HEADERS:
        raise Malformed("The request has too many headers.", 431)
    return [_header(line) for line in lines]


def _header(line: bytes) -> tuple[bytes, bytes]:
    """A lone CR, LF or NUL is in no pattern, and a folded line has no name."""
    found = _HEADER.fullmatch(line)
    if found is None:
        raise Malformed("A header is not one of HTTP/1.1.")
    return found[1].lower(), found[2]


def _length(headers: Headers, may_chunk: bool) -> int | None:
    """Of two ways to say where the body ends, a server behind us might believe the other one."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if lengths or codings != [b"chunked"] or not may_chunk:
            raise Malformed("The request does not say clearly where its body ends.")
        return None
    if len(lengths) > 1 or (lengths and _LENGTH.fullmatch(lengths[0]) is None):
        raise Malformed("The request does not say clearly where its body ends.")
    return int(lengths[0]) if lengths else 0


def _tunnel_end(target: str) -> Destination:
    found = _CONNECT.fullmatch(target)
    if found is None:
        raise Malformed("CONNECT needs host:port.")
    return _destination(found[1], found[2])


def _forwarded(method: bytes, target: str, headers: Headers, length: int | None) -> ProxyRequest:
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Malformed("This is a proxy: ask for http://host/path, or for host:port by CONNECT.")
    to = _destination(found[2], found[3] or "80")
    path = (found[4] or "/") + (found[5] or "")
    lines = [
        b"%b %b HTTP/1.1" % (method, path.encode("ascii")),
        b"Host: %b" % found[1].encode("ascii"),
        *(b"%b: %b" % header for header in headers if header[0] not in _dropped(headers)),
        *_framing(method, length),
        b"Connection: close",
    ]
    return ProxyRequest(to=to, head=b"\r\n".join(lines) + b"\r\n\r\n", length=length)


def _framing(method: bytes, length: int | None) -> list[bytes]:
    if length is None:
        return [b"Transfer-Encoding: chunked"]
    return [b"Content-Length: %d" % length] if length or method in (b"POST", b"PUT", b"PATCH") else []


def _dropped(headers: Headers) -> frozenset[bytes]:
    named = b",".join(value for name, value in headers if name == b"connection")
    return _NOT_PASSED_ON | {name.strip().lower() for name in named.split(b",")}


def _destination(host: str, port: str) -> Destination:
    try:
        return destination(host, port)
    except ValueError:
        raise Malformed("The request does not name a host and a port.") from None
