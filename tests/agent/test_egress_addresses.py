"""Where the egress proxy connects to: addresses, names, ports and lists (see egress_proxy.py)."""

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from tests.agent.egress_proxy import QUICK, proxied

from overnight.agent.denials import Denial
from overnight.agent.egress import Egress
from overnight.domain.address import CallbackPolicy
from overnight.domain.egress import EgressPolicy, Reason
from overnight.serving import listen

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


async def test_names_whose_servers_hang_do_not_fill_the_service_with_threads() -> None:
    """A thread that looks up a name cannot be ended: it goes on after we gave up on it."""
    released, asked = threading.Event(), list[str]()

    def hang(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        released.wait(60)
        return ["127.0.0.1"]

    limits = dataclasses.replace(QUICK, lookups=2)
    try:
        async with proxied(limits=limits, resolver=hang) as proxy, asyncio.timeout(20):
            here = f"slow.test:{proxy.far.port}"
            assert [await proxy.status(here) for _ in range(5)] == [502] * 5
            assert len(asked) == 2
            released.set()
            _, writer = await proxy.tunnel("slow.test")
            writer.close()
    finally:
        released.set()
