"""A small Internet in a network namespace of its own: every address of both families is this machine's.

Run by test_webhooks_never_connect_inward.py as `unshare ... python private_network.py`, with the cases as JSON
on stdin. Canaries listen at every address on three ports and note where each connection went; the kernel's own
counter of opened connections sees those to all other ports. Names are answered by a DNS server of ours on UDP
port 53, which the system's resolver is pointed at.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from overnight.adapters.system import SystemClock
from overnight.adapters.webhooks import Deadlines, WebhookSender, default_tls
from overnight.domain.address import CallbackPolicy

TLS_PORTS = (443, 8443)
PLAIN_PORTS = (80,)
DEADLINES = Deadlines(total=5.0, resolve=1.5, connect=2.0, read=2.0, write=2.0)
BODY = b"{}"
A, CNAME, AAAA = 1, 5, 28

Answers = Sequence[str] | None
"""What a name means at one look-up: addresses, or `=other.name` for a CNAME. None: the server says nothing."""


def prepare_network(directory: Path) -> None:
    resolv = directory / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    for command in (
        "ip link set lo up",
        "ip route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo",
        f"mount --bind {resolv} /etc/resolv.conf",
    ):
        subprocess.run(command.split(), check=True)


class NameServer:
    """Each further look-up of a name takes the next of its answers; the last one stays."""

    def __init__(self, zone: Mapping[str, Sequence[Answers]]) -> None:
        self._zone = zone
        self._asked: Counter[tuple[str, int]] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            reply = self._reply(query)
            if reply is not None:
                self._socket.sendto(reply, client)

    def _reply(self, query: bytes) -> bytes | None:
        name, end = _read_name(query, 12)
        [kind] = struct.unpack_from(">H", query, end)
        meanings = self._zone.get(name, [[]])
        turn = min(self._asked[name, kind], len(meanings) - 1)
        self._asked[name, kind] += 1
        meaning = meanings[turn]
        if meaning is None:
            return None
        records = list(self._records(name, kind, meaning))
        head = query[:2] + struct.pack(">5H", 0x8180, 1, len(records), 0, 0)
        return head + query[12 : end + 4] + b"".join(records)

    def _records(self, name: str, kind: int, meaning: Sequence[str]) -> Iterator[bytes]:
        for value in meaning:
            if value.startswith("="):
                yield _record(name, CNAME, _name(value[1:]))
                yield from self._records(value[1:], kind, self._zone[value[1:]][0] or [])
            else:
                address = ip_address(value)
                if kind == (AAAA if isinstance(address, IPv6Address) else A):
                    yield _record(name, kind, address.packed)


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def _name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _name(name) + struct.pack(">HHIH", kind, 1, 0, len(data)) + data


class Canaries:
    """Listeners at every address; `log` has the address and port of each connection that one of them got."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.log: list[tuple[str, int]] = []
        self._tls = tls
        for port in (*TLS_PORTS, *PLAIN_PORTS):
            for host, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)):
                listening = socket.create_server((host, port), family=family, backlog=64)
                threading.Thread(target=self._accept, args=(listening, port), daemon=True).start()

    def _accept(self, listening: socket.socket, port: int) -> None:
        while True:
            connection, _ = listening.accept()
            self.log.append((connection.getsockname()[0], port))
            threading.Thread(target=self._serve, args=(connection, port), daemon=True).start()

    def _serve(self, connection: socket.socket, port: int) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(2.0)
            talk = self._tls.wrap_socket(connection, server_side=True) if port in TLS_PORTS else connection
            with talk:
                request = talk.makefile("rb")
                target = request.readline().decode().split(" ")[1]
                while request.readline().strip():
                    pass
                request.read(len(BODY))  # closing with bytes unread would reset the connection
                talk.sendall(_answer(target))


def _answer(target: str) -> bytes:
    """A path `/to/URL` is answered by a redirect there."""
    if target.startswith("/to/"):
        location = unquote(target.removeprefix("/to/"))
        return f"HTTP/1.1 307 Over There\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def connections_opened() -> int:
    """`ActiveOpens` of this namespace: every connect() that left CLOSED, whatever came of it (RFC 4022)."""
    lines = Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("ActiveOpens")])


def certificates(names: Sequence[str], directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, sender's): one self-signed certificate for all names and addresses, which the sender trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "canary")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = directory / "chain.pem"
    chain.write_bytes(private + certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    sender = default_tls()
    sender.load_verify_locations(cadata=certificate.decode())
    return server, sender


def _general(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)


async def deliver(case: Mapping[str, Any], canaries: Canaries, tls: ssl.SSLContext) -> dict[str, Any]:
    policy = CallbackPolicy(
        allow_http=case["http"],
        allow_private=tuple(ip_network(network) for network in case["private"]),
        ports=frozenset({443, 8443}),
    )
    sender = WebhookSender(policy=policy, clock=SystemClock(), tls=tls, deadlines=DEADLINES)
    opened, noted = connections_opened(), len(canaries.log)
    receipts = [await sender.send(case["url"], {}, BODY) for _ in range(case["times"])]
    return {
        "receipts": [receipt.status or receipt.failure for receipt in receipts],
        "opened": connections_opened() - opened,
        "reached": sorted({address for address, _ in canaries.log[noted:]}),
    }


async def main() -> None:
    plan = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare_network(directory)
        server, sender = certificates(plan["certified"], directory)
        NameServer(plan["zone"])
        canaries = Canaries(server)
        results = [await deliver(case, canaries, sender) for case in plan["cases"]]
        print(json.dumps({"results": results, "log": canaries.log}), flush=True)
    os._exit(0)  # look-ups that hang do not hold it up


if __name__ == "__main__":
    asyncio.run(main())
