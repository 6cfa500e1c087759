"""The egress proxy over real sockets: a fake resolver says what a name means, a loopback server stands for the
Internet (the operator opened 127.0.0.1 alone, as everything else of loopback stays closed)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest

from overnight.agent.denials import MOST_EVENTS, Denial, Denials
from overnight.agent.egress import Egress, ProxyLimits
from overnight.agent.traffic import Traffic
from overnight.domain.address import CallbackPolicy
from overnight.domain.egress import EgressPolicy, Reason
from overnight.serving import listen

OPENED = CallbackPolicy(allow_private=(ip_network("127.0.0.1/32"),))
QUICK = ProxyLimits(head=0.3, resolve=0.3, connect=2.0, idle=0.5, farewell=0.3, connections=3)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Names:
    """What each name means, one answer after the other; the last one stays."""

    answers: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Far:
    """The host at the other end: `serve` says what it does with a connection."""

    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
    port: int = 0
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self.serve(reader, writer)
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until its client has ended; then it says so, and ends as well."""
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.write(b"[end]")


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head that came, and what follows within a moment."""
    seen = await reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while part := await reader.read(65536):
                seen += part
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + seen)


@dataclass
class Proxy:
    port: int
    far: Far
    names: Names
    traffic: Traffic
    denied: list[Denial]

    async def connect(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, request: bytes) -> bytes:
        """All that comes back until the proxy closes."""
        reader, writer = await self.connect()
        writer.write(request)
        async with asyncio.timeout(10):
            answer = await reader.read(-1)
        writer.close()
        return answer

    async def tunnel(self, host: str) -> Connection:
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{self.far.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def status(self, target: str, method: str = "CONNECT") -> int:
        answer = await self.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return int(answer.split(b" ")[1])


@contextlib.asynccontextmanager
async def proxied(serve: Any = echo, *, limits: ProxyLimits = QUICK, **policy: Any) -> AsyncIterator[Proxy]:
    far, names, denied = Far(serve), Names({"there.test": [["127.0.0.1"]]}), list[Denial]()
    server = await asyncio.start_server(far, "127.0.0.1", 0)
    far.port = server.sockets[0].getsockname()[1]
    egress = Egress(EgressPolicy(**({"addresses": OPENED} | policy)), names, limits=limits)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with server, egress.listening(listener, denied.append) as traffic:
        yield Proxy(port, far, names, traffic, denied)


async def test_a_tunnel_carries_both_ways_and_counts() -> None:
    async with proxied() as proxy:
        reader, writer = await proxy.tunnel("there.test")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read(-1) == b"[end]", "one direction can end before the other"
        writer.close()
        assert (proxy.traffic.asked, proxy.traffic.sent, proxy.traffic.received) == (1, 5, 10)
    assert proxy.denied == []


async def test_what_follows_the_head_at_once_is_part_of_the_tunnel() -> None:
    async with proxied() as proxy:
        reader, writer = await proxy.connect()
        writer.write(f"CONNECT there.test:{proxy.far.port} HTTP/1.1\r\n\r\nearly".encode())
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"early"
        writer.close()


async def test_megabytes_pass() -> None:
    data = bytes(range(256)) * 16_384
    async with proxied() as proxy:
        reader, writer = await proxy.tunnel("there.test")

        async def push() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        pushing = asyncio.create_task(push())
        assert await reader.read(-1) == data + b"[end]"
        await pushing
        writer.close()


async def test_a_plain_request_is_written_anew() -> None:
    async with proxied(web) as proxy:
        here = f"there.test:{proxy.far.port}"
        request = (
            f"POST http://{here}/a?b=c HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: Basic eA==\r\n"
            "Proxy-Connection: keep-alive\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Own: kept\r\n"
            "Content-Length: 4\r\n\r\nbodyGET /second HTTP/1.1\r\n\r\n"
        )
        answer = await proxy.send(request.encode())
    lines = answer.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert lines == [
        b"POST /a?b=c HTTP/1.1",
        f"Host: {here}".encode(),
        b"x-own: kept",
        b"Content-Length: 4",
        b"Connection: close",
        b"",
        b"body",
    ]


async def test_chunks_pass_as_they_are() -> None:
    async with proxied(web) as proxy:
        head = f"PUT http://there.test:{proxy.far.port} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await proxy.send(head.encode() + b"4\r\nbody\r\n0\r\n\r\n")
    assert answer.endswith(
        b"PUT / HTTP/1.1\r\nHost: there.test:%d\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n" % proxy.far.port
    )


DENIED = [
    "169.254.169.254",
    "127.0.0.2",
    "10.0.0.1",
    "192.168.1.1",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "224.0.0.1",
]


@pytest.mark.parametrize("host", DENIED)
@pytest.mark.parametrize("target", ["{}:443", "http://{}/latest/meta-data"])
async def test_addresses_that_are_not_public(host: str, target: str) -> None:
    method = "CONNECT" if target.endswith("443") else "GET"
    async with proxied(addresses=CallbackPolicy()) as proxy:
        assert await proxy.status(target.format(host), method) == 403
    assert [(denial.port, denial.reason) for denial in proxy.denied] == [
        (443 if method == "CONNECT" else 80, "address")
    ]
    assert proxy.names.asked == []


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["93.184.216.34", "10.0.0.1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        ["junk"],
        ["127.0.0.1", "::1"],
    ],
)
async def test_every_answer_must_pass(answers: list[str]) -> None:
    async with proxied() as proxy:
        proxy.names.answers["mixed.test"] = [answers]
        answer = await proxy.send(b"CONNECT mixed.test:443 HTTP/1.1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"x-overnight-egress: denied" in head
    assert b"not public" in body
    assert proxy.denied == [Denial("mixed.test", 443, "address")]
    assert proxy.far.connections == 0


async def test_a_name_that_changes_its_meaning_is_asked_for_once() -> None:
    async with proxied() as proxy:
        proxy.names.answers["rebinding.test"] = [["127.0.0.1"], ["169.254.169.254"]]
        _, writer = await proxy.tunnel("rebinding.test")
        assert proxy.names.asked == ["rebinding.test"]
        writer.close()
        assert await proxy.status("rebinding.test:443") == 403


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    opened = CallbackPolicy(allow_private=(ip_network("127.0.0.1/32"), ip_network("127.0.0.9/32")))
    async with proxied(addresses=opened) as proxy:
        proxy.names.answers["two.test"] = [["127.0.0.9", "127.0.0.1"]]
        _, writer = await proxy.tunnel("two.test")
        writer.close()


async def test_only_two_ports_but_for_what_the_operator_opened() -> None:
    async with proxied(addresses=CallbackPolicy()) as proxy:
        for port in (22, 25, 8080):
            assert await proxy.status(f"there.test:{port}") == 403
        assert proxy.names.asked == [], "a name is not even looked up"
    assert {denial.reason for denial in proxy.denied} == {Reason.PORT}
    async with proxied() as proxy:
        proxy.names.answers["public.test"] = [["93.184.216.34"]]
        assert await proxy.status("public.test:22") == 403
    assert proxy.denied == [Denial("public.test", 22, "port")]


async def test_off_is_off() -> None:
    async with proxied(mode="off") as proxy:
        assert await proxy.status("there.test:443") == 403
    assert (proxy.denied, proxy.names.asked) == ([Denial("there.test", 443, "off")], [])


async def test_the_list_of_allowed_hosts() -> None:
    async with proxied(mode="allowlist", allow=("there.test", "*.example.org")) as proxy:
        for name in ("a.example.org", "a.b.example.org"):
            proxy.names.answers[name] = [["127.0.0.1"]]
        for host in ("there.test", "THERE.test.", "a.example.org", "a.b.example.org"):
            _, writer = await proxy.tunnel(host)
            writer.close()
        for host in ("example.org", "aexample.org", "x.there.test", "127.0.0.1"):
            assert await proxy.status(f"{host}:443") == 403
    assert {denial.reason for denial in proxy.denied} == {Reason.NOT_LISTED}
    assert proxy.far.connections == 4


async def test_names_that_lead_nowhere_are_no_denial() -> None:
    async with proxied() as proxy:
        proxy.names.answers["empty.test"] = [[]]
        proxy.names.answers["dead.test"] = [["127.0.0.1"]]
        assert await proxy.status("unknown.test:443") == 502
        assert await proxy.status("empty.test:443") == 502
        assert await proxy.status("dead.test:1") == 502
    assert proxy.denied == []


async def test_a_name_server_that_hangs_is_not_waited_for() -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_host: str, _port: int) -> Sequence[str]:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        return []

    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with Egress(EgressPolicy(), hang, limits=QUICK).listening(listener, lambda _: None):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
        assert b" 502 " in await reader.readline()
        writer.close()
    released.set()


ODD = [
    (b"GET http://there.test/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nContent-Length: +3\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
    (
        b"GET http://there.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        400,
    ),
    (b"GET http://there.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nX: 1\nContent-Length: 3\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nX: 1\rY: 2\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nX: 1\r\n folded\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\r\nX: \0\r\n\r\n", 400),
    (b"GET http://there.test/ HTTP/1.1\nHost: x\n\n\r\n\r\n", 400),
    (b"GET http://user@there.test/ HTTP/1.1\r\n\r\n", 400),
    (b"GET https://there.test/ HTTP/1.1\r\n\r\n", 400),
    (b"GET /local HTTP/1.1\r\nHost: there.test\r\n\r\n", 400),
    (b"GET http://there.test:99999/ HTTP/1.1\r\n\r\n", 400),
    (b"GET http://2130706433/ HTTP/1.1\r\n\r\n", 400),
    (b"GET http://0x7f.1/ HTTP/1.1\r\n\r\n", 400),
    (b"GET http://127.1/ HTTP/1.1\r\n\r\n", 400),
    (b"GET http://[::1%25lo]/ HTTP/1.1\r\n\r\n", 400),
    (b"GET  http://there.test/ HTTP/1.1\r\n\r\n", 400),
    (b"CONNECT there.test HTTP/1.1\r\n\r\n", 400),
    (b"CONNECT http://there.test:443 HTTP/1.1\r\n\r\n", 400),
    (b"CONNECT there.test:443 HTTP/1.1\r\nContent-Length: 3\r\n\r\n", 400),
    (b"CONNECT there.test:443 HTTP/2.0\r\n\r\n", 400),
    (b"CONNECT there.test:443 HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    (b"CONNECT there.test:443 HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
]


@pytest.mark.parametrize(("request_", "status"), ODD)
async def test_what_could_be_read_in_two_ways_is_refused(request_: bytes, status: int) -> None:
    async with proxied() as proxy:
        answer = await proxy.send(request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"x-overnight-egress: failed" in answer
    assert (proxy.names.asked, proxy.denied, proxy.far.connections) == ([], [], 0)


@pytest.mark.parametrize("begun", [b"", b"CONNECT there", b"GET http://there.test/ HTTP/1.1\nHost: x\n\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(begun: bytes) -> None:
    async with proxied() as proxy:
        assert b" 408 " in await proxy.send(begun)


async def test_a_client_that_leaves_leaves_nothing() -> None:
    async with proxied() as proxy:
        _, writer = await proxy.connect()
        writer.write(b"CONNECT there")
        writer.close()
        for leave in (asyncio.StreamWriter.close, lambda writer: writer.transport.abort()):
            _, writer = await proxy.tunnel("there.test")
            leave(writer)


async def test_a_run_has_so_many_connections() -> None:
    async with proxied() as proxy:
        held = [await proxy.tunnel("there.test") for _ in range(QUICK.connections)]
        assert await proxy.status("there.test:443") == 503
        for _, writer in held:
            writer.close()


async def test_a_connection_on_which_nothing_moves_is_cut() -> None:
    async with proxied() as proxy:
        reader, writer = await proxy.tunnel("there.test")
        async with asyncio.timeout(5):
            assert await reader.read(-1) == b""
        writer.close()


async def test_every_connection_is_cut_at_the_end() -> None:
    async with proxied(limits=ProxyLimits()) as proxy:
        reader, writer = await proxy.tunnel("there.test")
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(-1) == b""
    writer.close()


def test_a_scan_does_not_flood_the_events() -> None:
    told: list[tuple[str, Any]] = []
    denials = Denials(lambda kind, fields: told.append((kind, fields)))
    for _ in range(3):
        denials.note(Denial("a", 1, "port"))
    assert told == [("egress.denied", {"host": "a", "port": 1, "reason": "port"})]
    for port in range(10_000):
        denials.note(Denial("b", port, "port"))
    denials.close()
    assert len(told) == MOST_EVENTS + 1
    assert told[-1] == ("egress.denied_total", {"count": 10_003, "told": MOST_EVENTS})
