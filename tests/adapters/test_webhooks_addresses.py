"""Names that lead elsewhere, and what is refused before anything is looked up."""

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from overnight.adapters.webhooks import Deadlines, WebhookSender
from overnight.ports import Receipt
from overnight.resolving import system_resolver

ALLOWED = "127.0.0.2"
INTERNAL = "127.0.0.1"
NAME = "receiver.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = Deadlines(total=5.0, resolve=0.1, connect=0.3, read=0.3, write=0.3)


async def test_a_name_that_is_rebound_never_leads_inward(receiving: Any, sender: Any) -> None:
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
async def test_one_bad_answer_denies_the_delivery(
    answers: list[str], receiving: Any, deliver: Any, answering: Any
) -> None:
    async with receiving(OK) as receiver, receiving(OK, host=INTERNAL, port=receiver.port) as inner:
        assert await deliver(receiver, answering(*answers)) == Receipt(failure="address_denied")
    assert (receiver.connections, inner.connections) == (0, 0)


@pytest.mark.parametrize(
    ("dead", "receipt"), [(3, Receipt(status=200)), (4, Receipt(failure="connect")), (0, Receipt(status=200))]
)
async def test_four_addresses_are_tried(
    dead: int, receipt: Receipt, receiving: Any, policy_for: Any, answering: Any, clock: Any
) -> None:
    async with receiving(OK) as receiver:
        policy = policy_for(receiver.port, allow="127.0.0.0/8")
        resolver = answering(*(f"127.0.1.{n}" for n in range(dead)), ALLOWED)
        webhooks = WebhookSender(policy=policy, clock=clock, resolver=resolver, deadlines=QUICK)
        assert await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"") == receipt


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError(), OSError()])
async def test_a_name_that_does_not_resolve_is_a_dns_failure(
    error: Exception, deliver: Any, receiver_at: Any
) -> None:
    def resolver(_host: str, _port: int) -> Sequence[str]:
        raise error

    assert await deliver(receiver_at(8000), resolver) == Receipt(failure="dns")


async def test_a_name_without_addresses_is_a_dns_failure(
    deliver: Any, answering: Any, receiver_at: Any
) -> None:
    assert await deliver(receiver_at(8000), answering()) == Receipt(failure="dns")


@pytest.mark.parametrize(
    ("host", "addresses"), [(INTERNAL, [INTERNAL]), ("::1", ["::1"]), ("fe80::1%1", ["fe80::1%1"])]
)
def test_the_system_resolver_says_what_the_system_would_dial(host: str, addresses: list[str]) -> None:
    [found] = system_resolver(host, 443)
    assert [str(ip_address(found)).replace("%lo", "%1")] == addresses


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
async def test_a_url_that_the_policy_refuses_is_not_tried(
    url: str, failure: str, policy_for: Any, clock: Any
) -> None:
    policy = policy_for(allow="127.0.0.2/32")
    webhooks = WebhookSender(policy=policy, clock=clock, resolver=unused)
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
async def test_headers_that_could_change_the_request_are_refused(
    headers: dict[str, str], policy_for: Any, clock: Any
) -> None:
    webhooks = WebhookSender(policy=policy_for(), clock=clock, resolver=unused)
    with pytest.raises(ValueError, match="a header"):
        await webhooks.send(f"https://{NAME}/", headers, b"")
