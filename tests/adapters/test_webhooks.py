"""What is sent, and what the answer means."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from overnight.adapters.webhooks import WebhookSender, parse_retry_after
from overnight.domain.callback_url import CallbackPolicy
from overnight.domain.signature import new_secret, parse_secret, sign
from overnight.ports import Receipt

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALLOWED = "127.0.0.2"
INTERNAL = "127.0.0.1"
NAME = "receiver.example"
NOW = 1_764_000_000.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# What a good receiver sees


async def test_a_signed_body_arrives_intact(receiving: Any, sender: Any, headers_of: Any) -> None:
    secret, body, now = (
        new_secret(bytes(32)),
        '{"result":"déjà vu\\r\\n"}'.encode(),
        int(datetime.now(UTC).timestamp()),
    )
    headers = {
        "Content-Type": "application/json",
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(parse_secret(secret), "msg_1", now, body),
    }
    async with receiving(OK) as receiver:
        receipt = await sender(receiver).send(f"http://{NAME}:{receiver.port}/hook?x=1", headers, body)
    assert receipt == Receipt(status=200)
    [request] = receiver.requests
    arrived = headers_of(request)
    Webhook(secret).verify(request.partition(b"\r\n\r\n")[2], arrived)
    assert request.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert arrived["host"] == f"{NAME}:{receiver.port}"
    assert (arrived["connection"], arrived["accept-encoding"]) == ("close", "identity")
    assert "transfer-encoding" not in arrived


async def test_every_delivery_has_its_own_connection_and_look_up(receiving: Any, sender: Any) -> None:
    looked_up: list[str] = []

    def resolver(host: str, _port: int) -> Sequence[str]:
        looked_up.append(host)
        return [ALLOWED]

    async with receiving(OK) as receiver:
        webhooks = sender(receiver, resolver)
        for _ in range(3):
            await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"")
    assert receiver.connections == 3
    assert looked_up == [NAME] * 3


async def test_localhost_needs_no_resolver(
    receiving: Any, headers_of: Any, answering: Any, clock: Any
) -> None:
    async with receiving(OK, host=INTERNAL) as receiver:
        policy = CallbackPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
        webhooks = WebhookSender(policy=policy, clock=clock, resolver=answering("10.0.0.1"))
        assert await webhooks.send(f"http://localhost:{receiver.port}/", {}, b"") == Receipt(status=200)
    assert headers_of(receiver.requests[0])["host"] == f"localhost:{receiver.port}"


async def test_a_literal_address_needs_no_resolver(receiving: Any, sender: Any, answering: Any) -> None:
    async with receiving(OK) as receiver:
        receipt = await sender(receiver, answering(INTERNAL)).send(
            f"http://{ALLOWED}:{receiver.port}/", {}, b""
        )
    assert receipt == Receipt(status=200)


async def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, receiving: Any, deliver: Any
) -> None:
    async with receiving(OK) as receiver, receiving(OK, host=INTERNAL) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{INTERNAL}:{proxy.port}")
        assert (await deliver(receiver)).status == 200
    assert proxy.connections == 0


def test_it_works_on_uvloop_too(receiving: Any, deliver: Any) -> None:
    async def story() -> list[Receipt]:
        async with receiving(OK) as good, receiving(b"") as silent:
            return [await deliver(good), await deliver(silent)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(story()) == [Receipt(status=200), Receipt(failure="protocol")]


# What the answer means


@pytest.mark.parametrize("status", [204, 400, 410, 500])
async def test_the_status_is_reported(status: int, receiving: Any, deliver: Any) -> None:
    async with receiving(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) as receiver:
        assert await deliver(receiver) == Receipt(status=status)


async def test_a_redirect_is_not_followed(receiving: Any, deliver: Any) -> None:
    async with receiving(OK, host=INTERNAL) as inner:
        answer = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % inner.port
        async with receiving(answer) as receiver:
            assert await deliver(receiver) == Receipt(status=307)
    assert inner.connections == 0


async def test_retry_after_is_passed_on(receiving: Any, deliver: Any) -> None:
    async with receiving(b"HTTP/1.1 429 X\r\nretry-AFTER: 120\r\nContent-Length: 0\r\n\r\n") as receiver:
        assert await deliver(receiver) == Receipt(status=429, retry_after_seconds=120.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("86401", 86400.0),
        ("9" * 5000, 86400.0),
        ("Mon, 24 Nov 2025 16:01:00 GMT", 60.0),
        ("Mon, 24 Nov 2025 16:01:00 -0000", 60.0),
        ("Mon, 24 Nov 2025 15:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("Mon, 99 Nov 2025 16:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    *(
        st.sampled_from(["Mon", "", "\xff"]),
        st.integers(),
        st.sampled_from(["Nov", "Xyz", ""]),
        st.integers(),
    ),
    *(st.integers(), st.integers(), st.integers(), st.sampled_from(["GMT", "+9999", "-99999999", "", "EST"])),
)


@steady
@given(st.one_of(dates, st.text(st.characters(max_codepoint=255))))
def test_any_retry_after_is_within_a_day_or_ignored(value: str) -> None:
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0.0 <= seconds <= 86400.0


# Hostile answers


@pytest.mark.parametrize(
    ("start", "filling", "receipt"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 209715200\r\n\r\n", bytes(65536), Receipt(status=200)),
        (b"HTTP/1.1 200 OK\r\n", b"X: %s\r\n" % (b"y" * 65000), Receipt(failure="protocol")),
        (b"", b"HTTP/1.1 103 Early\r\n\r\n" * 1000, Receipt(failure="protocol")),
    ],
)
async def test_a_huge_reply_is_not_read(
    start: bytes, filling: bytes, receipt: Receipt, receiving: Any, deliver: Any
) -> None:
    sent = 0
    cut = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(start)
        try:
            while sent < 200 * 2**20:
                writer.write(filling)
                await writer.drain()
                sent += len(filling)
        except OSError:
            cut.set()

    async with asyncio.timeout(10), receiving(answer) as receiver:
        assert await deliver(receiver) == receipt
        await cut.wait()
    assert sent < 20 * 2**20  # the rest is what the kernel's buffers held


@pytest.mark.parametrize(
    ("answer", "receipt"),
    [
        (b"", Receipt(failure="protocol")),
        (b"SSH-2.0-OpenSSH\r\n", Receipt(failure="protocol")),
        (b"HTTP/2 200\r\n\r\n", Receipt(failure="protocol")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Receipt(failure="protocol")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", Receipt(status=200)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", Receipt(status=200)),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz",
            Receipt(failure="protocol"),
        ),
    ],
)
async def test_the_status_line_decides(answer: bytes, receipt: Receipt, receiving: Any, deliver: Any) -> None:
    async with receiving(answer) as receiver:
        assert await deliver(receiver) == receipt


async def test_a_reset_before_the_status_is_a_failed_connection(receiving: Any, deliver: Any) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, 0 seconds: close by RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with receiving(answer) as receiver:
        assert await deliver(receiver) == Receipt(failure="connect")


async def test_a_closed_port_is_a_failed_connection(deliver: Any, receiver_at: Any) -> None:
    with closing(socket.create_server((ALLOWED, 0))) as listening:
        port = listening.getsockname()[1]
    assert await deliver(receiver_at(port)) == Receipt(failure="connect")
