"""No listener, socket or name of the host or the network can be reached: two ports answer, both the worker's."""

import contextlib
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

SCAN = """
import json, os, resource, socket
from urllib.parse import urlsplit

def connects(address, family=socket.AF_INET):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(1)
            s.connect(address)
            return s.getsockname() != s.getpeername()  # a free port of our own may connect to itself
    except OSError:
        return False

def resolves(name):
    try:
        return bool(socket.getaddrinfo(name, 80))
    except OSError:
        return False

def sends(address):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"TOKEN", address)
            return True
    except OSError:
        return False

print(json.dumps({
    "open": [port for port in range(1, 65536) if connects(("127.0.0.1", port))],
    "gateway": urlsplit(os.environ["ANTHROPIC_BASE_URL"]).port,
    "proxy": urlsplit(os.environ["HTTPS_PROXY"]).port,
    "six": connects(("::1", PORT), socket.AF_INET6),
    "metadata": connects(("169.254.169.254", 80)),
    "abstract": connects("\\0TOKEN", socket.AF_UNIX),
    "name": resolves("example.com"),
    "sent": [sends(("127.0.0.1", UDP)), sends(("192.0.2.1", 53))],
}))
"""


@pytest.fixture
def host() -> Iterator[dict[str, Any]]:
    """Listeners that any process of the machine can reach."""
    token = f"overnight-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{token}")
        abstract.listen()
        yield {"TOKEN": token, "PORT": tcp.getsockname()[1], "UDP": udp.getsockname()[1], "udp": udp}


async def test_of_all_ports_only_its_own_two_answer(attacker: Any, host: dict[str, Any]) -> None:
    program = SCAN
    for name in ("TOKEN", "PORT", "UDP"):
        program = program.replace(name, str(host[name]))
    seen = await attacker.python(program)
    assert seen["gateway"] in seen["open"]
    assert set(seen["open"]) <= {seen["gateway"], seen["proxy"]}
    assert host["PORT"] not in seen["open"]
    assert not any(seen[name] for name in ("six", "metadata", "abstract", "name"))
    with pytest.raises(BlockingIOError):
        host["udp"].recv(100)


async def test_the_gateway_does_answer(attacker: Any) -> None:
    assert "200" in await attacker.bash(
        "python3 -c \"import os, urllib.request as r; print(r.urlopen(os.environ['ANTHROPIC_BASE_URL']).status)\""
    )
