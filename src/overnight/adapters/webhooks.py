"""The webhook sender: one POST to an address that was checked first (facts: security 5.2).

The host is resolved once, every answer must pass, and the connection goes to one of those very addresses: a name
that means something else a moment later (DNS rebinding) changes nothing. httpcore speaks HTTP over a stream of our
own, which also bounds how much of a reply is read. It follows no redirect and reads no proxy from the environment.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpcore

from overnight.domain.address import Address, CallbackPolicy, may_dial
from overnight.domain.callback_url import LOCALHOST, CallbackUrl, CallbackUrlRefused, parse_callback_url
from overnight.ports import Clock, Receipt
from overnight.resolving import Resolver, resolve, system_resolver

MAX_REPLY_BYTES = 64 * 1024
MAX_ADDRESSES = 4
MAX_RETRY_AFTER_SECONDS = 86_400.0

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_OWN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect", "upgrade"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds. `connect` is per address and includes the TLS handshake; `read` and `write` are per call."""

    total: float = 15.0
    resolve: float = 5.0
    connect: float = 5.0
    read: float = 10.0
    write: float = 10.0


DEFAULT_DEADLINES = Deadlines()


def default_tls() -> ssl.SSLContext:
    """The system's authorities, TLS 1.2 or newer, HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class WebhookSender:
    """The port `Webhooks`. Keeps nothing between deliveries; any number may be under way at once."""

    def __init__(
        self,
        *,
        policy: CallbackPolicy,
        clock: Clock,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
        deadlines: Deadlines = DEFAULT_DEADLINES,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._resolver = resolver
        self._tls = tls or default_tls()
        self._deadlines = deadlines

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Raises ValueError for headers that must not be sent, which only our own code can cause."""
        checked = _checked_headers(headers)
        try:
            target = parse_callback_url(url, policy=self._policy)
        except CallbackUrlRefused as refusal:
            return Receipt(failure="address_denied" if refusal.reason_code == "address" else "url_refused")
        return await self._try(target, checked, body)

    async def _try(self, target: CallbackUrl, headers: list[tuple[str, str]], body: bytes) -> Receipt:
        """The status line decides: what happens to the rest of a reply, which nobody reads, is no failure."""
        receipt: Receipt | None = None
        try:
            async with asyncio.timeout(self._deadlines.total):
                stream = await self._connect(target)
                try:
                    response = await self._post(stream, target, headers, body)
                    receipt = self._receipt(response)
                    await response.aread()
                finally:
                    await stream.aclose()
        except (TimeoutError, _Failed, *_HTTP_ERRORS) as error:
            return receipt or Receipt(failure=_failure_class(error))
        return receipt

    async def _connect(self, target: CallbackUrl) -> "_Stream":
        addresses = await self._checked_addresses(target)
        tls = self._tls if target.scheme == "https" else None
        failure = _Failed("connect")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                async with asyncio.timeout(self._deadlines.connect):
                    return await _dial(address, target, tls)
            except TimeoutError:
                failure = _Failed("timeout")
            except _Failed as error:
                failure = error
        raise failure

    async def _checked_addresses(self, target: CallbackUrl) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        if target.host == LOCALHOST:
            return self._opened_loopback()
        addresses = _parsed(await self._resolve(target.host, target.port))
        if not all(may_dial(address, self._policy) for address in addresses):
            raise _Failed("address_denied")
        return addresses

    def _opened_loopback(self) -> Sequence[Address]:
        """`localhost` needs no resolver (RFC 6761 6.3), which might answer something else."""
        loopback: Sequence[Address] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
        opened = [address for address in loopback if may_dial(address, self._policy)]
        if not opened:
            raise _Failed("address_denied")
        return opened

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        try:
            found = await resolve(self._resolver, host, port, seconds=self._deadlines.resolve)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            raise _Failed("dns") from None
        if not found:
            raise _Failed("dns")
        return found

    async def _post(
        self, stream: "_Stream", target: CallbackUrl, headers: list[tuple[str, str]], body: bytes
    ) -> httpcore.Response:
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.target)
        request = httpcore.Request(
            "POST",
            url,
            headers=[
                ("Host", target.authority),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
                ("Accept-Encoding", "identity"),
                *headers,
            ],
            content=body,
            extensions={"timeout": {"read": self._deadlines.read, "write": self._deadlines.write}},
        )
        return await httpcore.AsyncHTTP11Connection(origin=url.origin, stream=stream).handle_async_request(
            request
        )

    def _receipt(self, response: httpcore.Response) -> Receipt:
        named = (value for name, value in response.headers if name.lower() == b"retry-after")
        value = next(named, b"").decode("latin-1")
        return Receipt(
            status=response.status, retry_after_seconds=parse_retry_after(value, now=self._clock.now())
        )


def parse_retry_after(value: str, *, now: float) -> float | None:
    """Seconds from `now` (Unix seconds), 0 to 24 h; from seconds or an HTTP date. None if it is neither."""
    value = value.strip(" \t")
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    until = _http_date(value)
    return None if until is None else min(max(until - now, 0.0), MAX_RETRY_AFTER_SECONDS)


def _http_date(value: str) -> float | None:
    """Unix seconds. A date without a zone is UTC, as every HTTP date."""
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class _Failed(Exception):
    """The delivery ended before there was a status."""

    def __init__(self, failure: str) -> None:
        super().__init__(failure)
        self.failure = failure


_HTTP_ERRORS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


def _failure_class(error: Exception) -> str:
    if isinstance(error, _Failed):
        return error.failure
    if isinstance(error, (TimeoutError, httpcore.TimeoutException)):
        return "timeout"
    return "connect" if isinstance(error, httpcore.NetworkError) else "protocol"


def _checked_headers(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    for name, value in headers.items():
        if _HEADER_NAME.fullmatch(name) is None or _HEADER_VALUE.fullmatch(value) is None:
            raise ValueError("a header has a character that could end it and begin another one")
        if name.lower() in _OWN_HEADERS:
            raise ValueError("a header is one that the sender sets itself")
    return list(headers.items())


def _parsed(answers: Sequence[str]) -> Sequence[Address]:
    try:
        return [ip_address(answer) for answer in answers]
    except ValueError:
        raise _Failed("address_denied") from None


async def _dial(address: Address, target: CallbackUrl, tls: ssl.SSLContext | None) -> "_Stream":
    """Connect to the address; certificate and SNI are about the name. No name is looked up here."""
    try:
        reader, writer = await asyncio.open_connection(
            str(address),
            target.port,
            limit=MAX_REPLY_BYTES // 4,
            ssl=tls,
            server_hostname=target.host if tls else None,
            flags=socket.AI_NUMERICHOST,
        )
    except ssl.SSLError:
        raise _Failed("tls") from None
    except TimeoutError:
        raise _Failed("timeout") from None
    except OSError:
        raise _Failed("connect") from None
    return _Stream(reader, writer)


class _Stream(httpcore.AsyncNetworkStream):
    """What httpcore reads and writes. After MAX_REPLY_BYTES, head included, it says that the reply is over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._allowance = MAX_REPLY_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        try:
            async with asyncio.timeout(timeout):
                received = await self._reader.read(min(max_bytes, self._allowance))
        except TimeoutError:
            raise httpcore.ReadTimeout from None
        except OSError:
            raise httpcore.ReadError from None
        self._allowance -= len(received)
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        if self._writer.is_closing():  # uvloop's transport would raise RuntimeError
            raise httpcore.WriteError
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError:
            raise httpcore.WriteTimeout from None
        except OSError:
            raise httpcore.WriteError from None

    async def aclose(self) -> None:
        """At once: a polite TLS farewell would wait for the receiver's."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
