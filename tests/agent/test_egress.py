"""What the egress proxy carries, what it refuses to read, and when it ends a connection (see egress_proxy.py)."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from tests.agent.egress_proxy import QUICK, proxied, web

from overnight.agent.denials import MOST_EVENTS, Denial, Denials
from overnight.agent.egress import ProxyLimits


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


async def test_with_a_client_that_leaves_its_connection_to_the_host_ends() -> None:
    """At once: the limits are those of a service, far longer than the test."""
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def listen_on(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.put_nowait(None)

    async with proxied(listen_on, limits=ProxyLimits()) as proxy, asyncio.timeout(10):
        for leave in (asyncio.StreamWriter.close, lambda writer: writer.transport.abort()):
            _, writer = await proxy.tunnel("there.test")
            leave(writer)
            await ended.get()


async def test_a_client_that_leaves_in_the_middle_of_its_head_is_no_trouble() -> None:
    async with proxied() as proxy:
        _, writer = await proxy.connect()
        writer.write(b"CONNECT there")
        writer.close()
        assert await proxy.status("unknown.test:443") == 502


async def test_a_run_has_so_many_connections() -> None:
    async with proxied() as proxy:
        held = [await proxy.tunnel("there.test") for _ in range(QUICK.connections)]
        assert await proxy.status("there.test:443") == 503
        for _, writer in held:
            writer.close()


async def test_of_connections_past_twice_their_number_nothing_is_kept() -> None:
    async with proxied(limits=ProxyLimits(connections=3, farewell=10.0)) as proxy, asyncio.timeout(5):
        held = [await proxy.connect() for _ in range(6)]
        late, writer = await proxy.connect()
        with contextlib.suppress(ConnectionResetError):
            assert await late.read() == b""
        for _, open_one in (*held, (late, writer)):
            open_one.close()


async def test_what_nobody_reads_counts_as_a_connection() -> None:
    """Else a run could have any number of them, each with what its client does not read."""
    over: asyncio.Queue[None] = asyncio.Queue()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(60_000))
        writer.write_eof()
        await reader.read()
        over.put_nowait(None)

    limits = ProxyLimits(connections=3)
    async with proxied(pour, limits=limits, send_buffer=4096) as proxy, asyncio.timeout(20):
        loop, held = asyncio.get_running_loop(), [socket.socket() for _ in range(limits.connections)]
        for deaf in held:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", proxy.port))
            await loop.sock_sendall(
                deaf, f"GET http://there.test:{proxy.far.port}/ HTTP/1.1\r\n\r\n".encode()
            )
            await over.get()
        assert await proxy.status("there.test:443") == 503
        for deaf in held:
            deaf.close()


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
