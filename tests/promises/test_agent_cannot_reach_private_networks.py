"""Programs of the agent that use the proxy reach public hosts only, and each refusal is an event of the job."""

import asyncio
import contextlib
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TIERS = pytest.mark.parametrize("tier", ["namespace", "none"])
PRIVATE = ["169.254.169.254", "127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:169.254.169.254]", "localhost"]


def tries(*urls: str) -> str:
    """NO_PROXY is emptied: what is asked for is whether the proxy would go there."""
    show = "-s -o /dev/null -w '%{http_code} %{http_connect} %header{x-overnight-egress}\\n' -g --noproxy ''"
    return "; ".join(f"curl {show} '{url}'" for url in urls)


@TIERS
async def test_loopback_metadata_and_private_addresses_are_denied(stage: Any, tier: str) -> None:
    urls = [f"{scheme}://{host}/" for host in PRIVATE for scheme in ("http", "https")]
    async with stage(tier) as it:
        await it.run(f"x\nrehearsal: bash {tries(*urls)}\nrehearsal: answer ok")
        (output,) = [finished["content"] for finished in it.of("tool.finished")]
    assert str(output).count("403") == len(urls)
    named = {host.strip("[]").replace("::ffff:", "") for host in PRIVATE}
    denied = {(event["host"], event["port"], event["reason"]) for event in it.of("egress.denied")}
    assert denied == {(host, port, "address") for host in named for port in (80, 443)}


async def test_a_service_of_this_machine_sees_no_connection(stage: Any) -> None:
    seen: list[object] = []
    server = await asyncio.start_server(lambda *connection: seen.append(connection), "127.0.0.1", 0)
    async with server, stage("namespace") as it:
        port = server.sockets[0].getsockname()[1]
        await it.run(f"x\nrehearsal: bash {tries(f'http://127.0.0.1:{port}/')}\nrehearsal: answer ok")
    assert it.of("egress.denied") == [{"host": "127.0.0.1", "port": port, "reason": "port"}]
    assert seen == []


async def test_off_denies_everything_and_the_gateway_still_works(stage: Any) -> None:
    async with stage(egress="off") as it:
        outcome = await it.run(f"x\nrehearsal: bash {tries('https://example.com/')}\nrehearsal: answer ok")
    assert outcome.result == "ok"
    assert it.of("egress.denied") == [{"host": "example.com", "port": 443, "reason": "off"}]


async def test_what_the_operator_opened_is_reached(stage: Any) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached")
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, stage(egress_allow_private="127.0.0.1/32") as it:
        port = server.sockets[0].getsockname()[1]
        fetch = f"curl -s --noproxy '' http://127.0.0.1:{port}/"
        await it.run(f"x\nrehearsal: bash {fetch}\nrehearsal: answer ok")
    assert "reached" in str(it.of("tool.finished"))
    assert it.of("egress.denied") == []
