"""The sender against real servers on loopback: good ones, slow ones, hostile ones, and resolvers that lie.

`127.0.0.2` plays the allowed address, `127.0.0.1` the internal network that must never see a connection.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from overnight.adapters.webhooks import (
    DEFAULT_DEADLINES,
    Deadlines,
    WebhookSender,
    default_tls,
    parse_retry_after,
)
from overnight.domain.callback_url import CallbackPolicy
from overnight.domain.signature import new_secret, parse_secret, sign
from overnight.ports import Receipt
from overnight.resolving import Resolver, system_resolver

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ALLOWED = "127.0.0.2"
INTERNAL = "127.0.0.1"
NAME = "receiver.example"
NOW = 1_764_000_000.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = Deadlines(total=5.0, resolve=0.1, connect=0.3, read=0.3, write=0.3)

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FixedClock:
    def now(self) -> float:
        return NOW


@dataclass
class Receiver:
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)


@asynccontextmanager
async def receiving(
    answer: Answer | bytes, *, host: str = ALLOWED, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """A server that reads one request and answers; whatever is still open at the end is cut off."""
    receiver = Receiver()
    open_tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.connections += 1
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            receiver.requests.append(await request_of(reader))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        open_tasks.add(task)
        task.add_done_callback(open_tasks.discard)

    if tls is not None:
        tls.sni_callback = lambda _connection, name, _context: receiver.server_names.append(name)
    server = await asyncio.start_server(accept, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.partition(b":")[2]))


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def answering(*answers: str) -> Resolver:
    return lambda _host, _port: list(answers)


def policy_for(*ports: int, allow: str = f"{ALLOWED}/32", allow_http: bool = True) -> CallbackPolicy:
    return CallbackPolicy(
        allow_http=allow_http, allow_private=(ip_network(allow),), ports=frozenset({443, *ports})
    )


def sender(
    receiver: Receiver,
    resolver: Resolver = answering(ALLOWED),  # noqa: B008 - a constant
    *,
    deadlines: Deadlines = QUICK,
    tls: ssl.SSLContext | None = None,
) -> WebhookSender:
    return WebhookSender(
        policy=policy_for(receiver.port), clock=FixedClock(), resolver=resolver, tls=tls, deadlines=deadlines
    )


async def deliver(receiver: Receiver, resolver: Resolver = answering(ALLOWED)) -> Receipt:  # noqa: B008
    return await sender(receiver, resolver).send(f"http://{NAME}:{receiver.port}/hook?x=1", {}, b"{}")


# What a good receiver sees


async def test_a_signed_body_arrives_intact() -> None:
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


async def test_every_delivery_has_its_own_connection_and_look_up() -> None:
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


async def test_localhost_needs_no_resolver() -> None:
    async with receiving(OK, host=INTERNAL) as receiver:
        policy = CallbackPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
        webhooks = WebhookSender(policy=policy, clock=FixedClock(), resolver=answering("10.0.0.1"))
        assert await webhooks.send(f"http://localhost:{receiver.port}/", {}, b"") == Receipt(status=200)
    assert headers_of(receiver.requests[0])["host"] == f"localhost:{receiver.port}"


async def test_a_literal_address_needs_no_resolver() -> None:
    async with receiving(OK) as receiver:
        receipt = await sender(receiver, answering(INTERNAL)).send(
            f"http://{ALLOWED}:{receiver.port}/", {}, b""
        )
    assert receipt == Receipt(status=200)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(OK) as receiver, receiving(OK, host=INTERNAL) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{INTERNAL}:{proxy.port}")
        assert (await deliver(receiver)).status == 200
    assert proxy.connections == 0


def test_it_works_on_uvloop_too() -> None:
    async def story() -> list[Receipt]:
        async with receiving(OK) as good, receiving(b"") as silent:
            return [await deliver(good), await deliver(silent)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(story()) == [Receipt(status=200), Receipt(failure="protocol")]


# What the answer means


@pytest.mark.parametrize("status", [204, 400, 410, 500])
async def test_the_status_is_reported(status: int) -> None:
    async with receiving(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) as receiver:
        assert await deliver(receiver) == Receipt(status=status)


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(OK, host=INTERNAL) as inner:
        answer = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % inner.port
        async with receiving(answer) as receiver:
            assert await deliver(receiver) == Receipt(status=307)
    assert inner.connections == 0


async def test_retry_after_is_passed_on() -> None:
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


# Hostile receivers


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("start", "receipt"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", Receipt(failure="timeout")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", Receipt(status=200)),
    ],
)
async def test_a_slow_drip_is_cut_at_the_total_deadline(start: bytes, receipt: Receipt) -> None:
    cut = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        try:
            await drip(writer)
        except OSError:
            cut.set()

    async with asyncio.timeout(5), receiving(answer) as receiver:
        webhooks = sender(receiver, deadlines=replace(QUICK, total=0.4))
        assert await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"") == receipt
        await cut.wait()


async def test_a_silent_receiver_is_left_at_the_read_deadline() -> None:
    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with receiving(answer) as receiver:
        webhooks = sender(receiver, deadlines=replace(DEFAULT_DEADLINES, read=0.1))
        async with asyncio.timeout(5):
            receipt = await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"")
    assert receipt == Receipt(failure="timeout")


async def test_a_receiver_that_reads_nothing_is_left_at_the_write_deadline() -> None:
    with closing(socket.create_server((ALLOWED, 0))) as listening:  # accepts in the kernel, reads never
        receiver = Receiver(port=listening.getsockname()[1])
        webhooks = sender(receiver, deadlines=replace(DEFAULT_DEADLINES, write=0.1))
        async with asyncio.timeout(5):
            receipt = await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, bytes(32 * 2**20))
    assert receipt == Receipt(failure="timeout")


@pytest.mark.parametrize(
    ("start", "filling", "receipt"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 209715200\r\n\r\n", bytes(65536), Receipt(status=200)),
        (b"HTTP/1.1 200 OK\r\n", b"X: %s\r\n" % (b"y" * 65000), Receipt(failure="protocol")),
        (b"", b"HTTP/1.1 103 Early\r\n\r\n" * 1000, Receipt(failure="protocol")),
    ],
)
async def test_a_huge_reply_is_not_read(start: bytes, filling: bytes, receipt: Receipt) -> None:
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
async def test_the_status_line_decides(answer: bytes, receipt: Receipt) -> None:
    async with receiving(answer) as receiver:
        assert await deliver(receiver) == receipt


async def test_a_reset_before_the_status_is_a_failed_connection() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, 0 seconds: close by RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with receiving(answer) as receiver:
        assert await deliver(receiver) == Receipt(failure="connect")


# Names that lead elsewhere


async def test_a_name_that_is_rebound_never_leads_inward() -> None:
    answers = iter([[ALLOWED], [INTERNAL], [ALLOWED]])
    async with receiving(OK) as receiver, receiving(OK, host=INTERNAL, port=receiver.port) as inner:
        webhooks = sender(receiver, lambda _host, _port: next(answers))
        url = f"http://{NAME}:{receiver.port}/"
        receipts = [await webhooks.send(url, {}, b"") for _ in range(3)]
    assert receipts == [Receipt(status=200), Receipt(failure="address_denied"), Receipt(status=200)]
    assert (receiver.connections, inner.connections) == (2, 0)


@pytest.mark.parametrize(
    "answers",
    [
        [ALLOWED, INTERNAL],
        [ALLOWED, "10.0.0.1"],
        [ALLOWED, "8.8.8.8", "::1"],
        [ALLOWED, "::ffff:127.0.0.1"],
        [ALLOWED, "fe80::1%1"],
        [ALLOWED, "2606:4700:4700::1111%1"],
        [ALLOWED, "64:ff9b::7f00:1"],
        [ALLOWED, "not an address"],
        [*[ALLOWED] * 4, INTERNAL],
        ["169.254.169.254"],
        ["0.0.0.0"],
    ],
)
async def test_one_bad_answer_denies_the_delivery(answers: list[str]) -> None:
    async with receiving(OK) as receiver, receiving(OK, host=INTERNAL, port=receiver.port) as inner:
        assert await deliver(receiver, answering(*answers)) == Receipt(failure="address_denied")
    assert (receiver.connections, inner.connections) == (0, 0)


@pytest.mark.parametrize(
    ("dead", "receipt"), [(3, Receipt(status=200)), (4, Receipt(failure="connect")), (0, Receipt(status=200))]
)
async def test_four_addresses_are_tried(dead: int, receipt: Receipt) -> None:
    async with receiving(OK) as receiver:
        policy = policy_for(receiver.port, allow="127.0.0.0/8")
        resolver = answering(*(f"127.0.1.{n}" for n in range(dead)), ALLOWED)
        webhooks = WebhookSender(policy=policy, clock=FixedClock(), resolver=resolver, deadlines=QUICK)
        assert await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"") == receipt


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError(), OSError()])
async def test_a_name_that_does_not_resolve_is_a_dns_failure(error: Exception) -> None:
    def resolver(_host: str, _port: int) -> Sequence[str]:
        raise error

    assert await deliver(Receiver(port=8000), resolver) == Receipt(failure="dns")


async def test_a_name_without_addresses_is_a_dns_failure() -> None:
    assert await deliver(Receiver(port=8000), answering()) == Receipt(failure="dns")


@pytest.fixture
def hanging() -> Iterator[Resolver]:
    release = threading.Event()

    def resolver(host: str, _port: int) -> Sequence[str]:
        if host != NAME:
            release.wait()
        return [ALLOWED]

    yield resolver
    release.set()


async def test_resolvers_that_hang_fail_alone(hanging: Resolver) -> None:
    async with receiving(OK) as receiver:
        webhooks = sender(receiver, hanging)
        stuck = [webhooks.send(f"http://{n}.hang.example:{receiver.port}/", {}, b"") for n in ("a", "b") * 20]
        async with asyncio.timeout(5):
            *failed, good = await asyncio.gather(
                *stuck, webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"")
            )
    assert set(failed) == {Receipt(failure="dns")}
    assert good == Receipt(status=200)


@pytest.mark.parametrize(
    ("host", "addresses"), [(INTERNAL, [INTERNAL]), ("::1", ["::1"]), ("fe80::1%1", ["fe80::1%1"])]
)
def test_the_system_resolver_says_what_the_system_would_dial(host: str, addresses: list[str]) -> None:
    [found] = system_resolver(host, 443)
    assert [str(ip_address(found)).replace("%lo", "%1")] == addresses


# No connection


async def test_a_closed_port_is_a_failed_connection() -> None:
    with closing(socket.create_server((ALLOWED, 0))) as listening:
        port = listening.getsockname()[1]
    assert await deliver(Receiver(port=port)) == Receipt(failure="connect")


async def test_a_host_that_does_not_answer_is_left_at_the_connect_deadline() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(closing(socket.create_server((ALLOWED, 0), backlog=0)))
        for _ in range(4):  # fills the backlog: the kernel then drops what comes
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        async with asyncio.timeout(5):
            assert await deliver(Receiver(port=listening.getsockname()[1])) == Receipt(failure="timeout")


# What is refused before anything is looked up


def unused(_host: str, _port: int) -> Sequence[str]:
    raise AssertionError("nothing should be looked up")


@pytest.mark.parametrize(
    ("url", "failure"),
    [
        ("", "url_refused"),
        ("http://receiver.example:22/", "url_refused"),
        ("http://user@receiver.example/", "url_refused"),
        ("http://[/", "url_refused"),
        ("http://localhost:8000/", "address_denied"),
        ("http://10.0.0.1/", "address_denied"),
        ("http://[::ffff:127.0.0.1]/", "address_denied"),
    ],
)
async def test_a_url_that_the_policy_refuses_is_not_tried(url: str, failure: str) -> None:
    policy = policy_for(allow="127.0.0.2/32")
    webhooks = WebhookSender(policy=policy, clock=FixedClock(), resolver=unused)
    assert await webhooks.send(url, {}, b"") == Receipt(failure=failure)


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nHost: other"},
        {"X": "a\nb"},
        {"X": "a\0"},
        {"X": "é"},
        {"X\r\nY": "a"},
        {"X Y": "a"},
        {"": "a"},
        {"HOST": "other"},
        {"Content-Length": "0"},
        {"transfer-encoding": "chunked"},
    ],
)
async def test_headers_that_could_change_the_request_are_refused(headers: dict[str, str]) -> None:
    webhooks = WebhookSender(policy=policy_for(), clock=FixedClock(), resolver=unused)
    with pytest.raises(ValueError, match="a header"):
        await webhooks.send(f"https://{NAME}/", headers, b"")


# TLS


class Authority:
    """A certificate authority of our own, and the contexts that servers and a sender make of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._serial = count(1)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        root = self._signed(self._subject, self._key, [], is_authority=True, ends=timedelta(days=1))
        self._root = root.public_bytes(serialization.Encoding.PEM).decode()

    def trusted(self) -> ssl.SSLContext:
        context = default_tls()
        context.load_verify_locations(cadata=self._root)
        return context

    def server(self, name: x509.GeneralName, *, ends: timedelta = timedelta(days=1)) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._signed(subject, key, [name], is_authority=False, ends=ends)
        chain = self._directory / f"{next(self._serial)}.pem"
        chain.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        is_authority: bool,
        ends: timedelta,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class MakeServer(Protocol):
    def __call__(self, authority: Authority) -> ssl.SSLContext: ...


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_is_about_the_name_though_an_address_is_dialled(authority: Authority) -> None:
    async with receiving(OK, tls=authority.server(x509.DNSName(NAME))) as receiver:
        webhooks = sender(receiver, tls=authority.trusted())
        assert await webhooks.send(f"https://{NAME}:{receiver.port}/", {}, b"{}") == Receipt(status=200)
    assert receiver.server_names == [NAME]
    assert headers_of(receiver.requests[0])["host"] == f"{NAME}:{receiver.port}"


async def test_a_certificate_for_a_literal_address_is_accepted(authority: Authority) -> None:
    async with receiving(OK, tls=authority.server(x509.IPAddress(ip_address(ALLOWED)))) as receiver:
        webhooks = sender(receiver, tls=authority.trusted())
        assert await webhooks.send(f"https://{ALLOWED}:{receiver.port}/", {}, b"") == Receipt(status=200)


@pytest.mark.parametrize(
    "make",
    [
        lambda authority: authority.server(x509.DNSName("other.example")),
        lambda authority: authority.server(x509.IPAddress(ip_address(ALLOWED))),
        lambda authority: authority.server(x509.DNSName(NAME), ends=timedelta(days=-1)),
    ],
    ids=["other name", "only the address", "expired"],
)
async def test_a_wrong_certificate_gets_no_request(authority: Authority, make: MakeServer) -> None:
    async with receiving(OK, tls=make(authority)) as receiver:
        webhooks = sender(receiver, tls=authority.trusted())
        assert await webhooks.send(f"https://{NAME}:{receiver.port}/", {}, b"{}") == Receipt(failure="tls")
    assert receiver.requests == []


async def test_an_unknown_authority_gets_no_request(authority: Authority) -> None:
    async with receiving(OK, tls=authority.server(x509.DNSName(NAME))) as receiver:
        assert await sender(receiver).send(f"https://{NAME}:{receiver.port}/", {}, b"") == Receipt(
            failure="tls"
        )
    assert receiver.requests == []


async def test_a_server_without_tls_is_a_tls_failure() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(answer, ALLOWED, 0)
    async with server:
        receiver = Receiver(port=server.sockets[0].getsockname()[1])
        receipt = await sender(receiver).send(f"https://{NAME}:{receiver.port}/", {}, b"")
    assert receipt == Receipt(failure="tls")


async def test_a_handshake_that_never_ends_is_left_at_the_connect_deadline() -> None:
    with closing(socket.create_server((ALLOWED, 0))) as listening:
        receiver = Receiver(port=listening.getsockname()[1])
        async with asyncio.timeout(5):
            receipt = await sender(receiver).send(f"https://{NAME}:{receiver.port}/", {}, b"")
    assert receipt == Receipt(failure="timeout")
