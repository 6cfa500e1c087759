"""The egress proxy: the only way from a run to the Internet (CONNECT, and http:// in absolute form).

It looks a name up itself, checks every answer, and connects to one of the addresses that it checked: a name that
means something else a moment later (DNS rebinding) changes nothing, and there is no tunnel by DNS. It asks for no
password: in a network namespace nobody else can reach it; where the network is shared it listens on loopback, and
whoever is on the machine can use it, which opens nothing that they could not reach themselves.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address

from overnight.agent.denials import Denial
from overnight.agent.proxy_request import MAX_HEAD_BYTES, Malformed, ProxyRequest, parse_head
from overnight.agent.traffic import Traffic
from overnight.domain.address import Address
from overnight.domain.egress import Destination, EgressPolicy, Reason
from overnight.resolving import Resolver, resolve

MAX_ADDRESSES = 4
CHUNK = 64 * 1024

OnDenied = Callable[[Denial], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """Seconds, and connections and lookups of names at once. `connect` is per address; `idle` is without a byte in
    either direction; `farewell` is for the client to read why it was refused. Of connections past their number as
    many again are told so; the others are hung up on, since each takes a descriptor of the worker."""

    head: float = 10.0
    resolve: float = 5.0
    connect: float = 10.0
    idle: float = 300.0
    farewell: float = 1.0
    connections: int = 128
    lookups: int = 32


DEFAULT_LIMITS = ProxyLimits()


class Egress:
    """A policy that can be served on any number of listeners."""

    def __init__(
        self, policy: EgressPolicy, resolver: Resolver, *, limits: ProxyLimits = DEFAULT_LIMITS
    ) -> None:
        self.policy = policy
        self.limits = limits
        self._resolver = resolver

    @contextlib.asynccontextmanager
    async def listening(
        self, listener: socket.socket, on_denied: OnDenied, traffic: Traffic | None = None
    ) -> AsyncIterator[Traffic]:
        """Serve on a bound socket while the block runs; then every connection is cut. What passes is added up in
        `traffic`."""
        clients = _Clients(self, on_denied, traffic or Traffic())
        server = await asyncio.start_server(
            clients.serve, sock=listener, limit=MAX_HEAD_BYTES, backlog=self.limits.connections
        )
        try:
            yield clients.traffic
        finally:
            server.close()
            await clients.cut()

    async def connect(
        self, to: Destination, lookups: asyncio.Semaphore
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises _Refused."""
        if (reason := self.policy.refuses(to)) is not None:
            raise _denied(reason)
        addresses = await self._addresses(to, lookups)
        for reason in (self.policy.refuses_address(address, to.port) for address in addresses):
            if reason is not None:
                raise _denied(reason)
        for address in addresses[:MAX_ADDRESSES]:
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(self.limits.connect):
                    return await asyncio.open_connection(
                        str(address), to.port, flags=socket.AI_NUMERICHOST, limit=CHUNK
                    )
        raise _Refused(HTTPStatus.BAD_GATEWAY, "The host does not answer.")

    async def _addresses(self, to: Destination, lookups: asyncio.Semaphore) -> Sequence[Address]:
        if to.address is not None:
            return [to.address]
        seconds = self.limits.resolve
        try:
            found = await resolve(self._resolver, to.host, to.port, seconds=seconds, at_once=lookups)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise _Refused(HTTPStatus.BAD_GATEWAY, "The name of the host cannot be resolved.")
        try:
            return [ip_address(answer) for answer in found]
        except ValueError:
            raise _denied(Reason.ADDRESS) from None


class _Clients:
    """The connections of one listener."""

    def __init__(self, egress: Egress, on_denied: OnDenied, traffic: Traffic) -> None:
        self.traffic = traffic
        self._egress = egress
        self._limits = egress.limits
        self._on_denied = on_denied
        self._lookups = asyncio.Semaphore(egress.limits.lookups)
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= 2 * self._limits.connections:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer(reader, writer)
            await self._read_out(writer)
        except asyncio.CancelledError:
            pass  # cut; the protocol of asyncio would call a cancelled connection an error
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _read_out(self, writer: asyncio.StreamWriter) -> None:
        """What its client has not read yet takes memory: until then it is one of the connections that a run may
        have."""
        writer.close()
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(self._limits.idle):
                await writer.wait_closed()

    async def cut(self) -> None:
        tasks = set(self._open)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._check_room()
            request = await self._request(reader)
            far = await self._connected(request)
        except _Refused as refusal:
            await self._say(refusal, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # gone before it had asked
        else:
            await self._join(request, (reader, writer), far)

    def _check_room(self) -> None:
        if len(self._open) > self._limits.connections:
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The run has too many connections open.")

    async def _request(self, reader: asyncio.StreamReader) -> ProxyRequest:
        try:
            async with asyncio.timeout(self._limits.head):
                return parse_head(await reader.readuntil(b"\r\n\r\n"))
        except Malformed as malformed:
            raise _Refused(HTTPStatus(malformed.status), malformed.message) from None
        except asyncio.LimitOverrunError:
            raise _Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too large."
            ) from None
        except TimeoutError:
            raise _Refused(
                HTTPStatus.REQUEST_TIMEOUT, "The head of the request did not come in time."
            ) from None

    async def _connected(self, request: ProxyRequest) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        to = request.to
        try:
            return await self._egress.connect(to, self._lookups)
        except _Refused as refusal:
            if refusal.reason is not None:
                self._on_denied(Denial(to.host, to.port, refusal.reason.value))
            raise

    async def _say(
        self, refusal: "_Refused", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """And wait a moment for the client to leave: closing on unread bytes would take the answer away."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(self._limits.farewell):
                writer.write(refusal.answer())
                writer.write_eof()
                while await reader.read(CHUNK):
                    pass

    async def _join(
        self,
        request: ProxyRequest,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.traffic.asked += 1
        far[1].write(request.head)
        if request.is_tunnel:
            near[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await _Joint(self.traffic, self._limits.idle).run(request, near, far)
        finally:
            far[1].transport.abort()


class _Joint:
    """Two connections that are one, until both directions have ended, or nothing moves any more."""

    def __init__(self, traffic: Traffic, idle: float) -> None:
        self._traffic = traffic
        self._idle = idle
        self._moved_at = asyncio.get_running_loop().time()

    async def run(
        self,
        request: ProxyRequest,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch())
                sending = tasks.create_task(self._send(near[0], far[1], request.length))
                await self._receive(far[0], near[1])
                if request.is_tunnel:
                    await asyncio.wait({sending})
                sending.cancel()
                watching.cancel()
        except* OSError:
            pass  # one of the two has left, or nothing moved (TimeoutError)

    async def _watch(self) -> None:
        while (left := self._moved_at + self._idle - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110 - it waits for time itself
            await asyncio.sleep(left)
        raise TimeoutError

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None
    ) -> None:
        """After the body of a request nothing more is taken: a second one would be unjudged."""
        left = length
        while left != 0 and (part := await reader.read(CHUNK if left is None else min(left, CHUNK))):
            self._traffic.sent += len(part)
            left = None if left is None else left - len(part)
            await self._write(writer, part)
        if length is None:
            writer.write_eof()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(CHUNK):
            self._traffic.received += len(part)
            await self._write(writer, part)
        writer.write_eof()

    async def _write(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        writer.write(part)
        await writer.drain()
        self._moved_at = asyncio.get_running_loop().time()


class _Refused(Exception):
    """What the proxy answers in place of the host. `reason` is set if it is a matter of policy."""

    def __init__(self, status: HTTPStatus, text: str, reason: Reason | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reason = reason

    def answer(self) -> bytes:
        body = f"{self.text}\n".encode()
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"x-overnight-egress: {'failed' if self.reason is None else 'denied'}",
            "content-type: text/plain; charset=utf-8",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_WORDS = {
    Reason.OFF: "This service lets runs connect to nothing (OVERNIGHT_EGRESS=off).",
    Reason.PORT: "Runs may connect to ports 80 and 443 only.",
    Reason.NOT_LISTED: "The host is not in OVERNIGHT_EGRESS_ALLOW.",
    Reason.ADDRESS: "The host has an address that is not public (OVERNIGHT_EGRESS_ALLOW_PRIVATE).",
}


def _denied(reason: Reason) -> _Refused:
    return _Refused(HTTPStatus.FORBIDDEN, _WORDS[reason], reason)
