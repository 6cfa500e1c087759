"""Certificates are for the name, though an address is dialled."""

import asyncio
import ssl
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from overnight.adapters.webhooks import default_tls
from overnight.ports import Receipt

ALLOWED = "127.0.0.2"
NAME = "receiver.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


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


async def test_tls_is_about_the_name_though_an_address_is_dialled(
    authority: Authority, receiving: Any, sender: Any, headers_of: Any
) -> None:
    async with receiving(OK, tls=authority.server(x509.DNSName(NAME))) as receiver:
        webhooks = sender(receiver, tls=authority.trusted())
        assert await webhooks.send(f"https://{NAME}:{receiver.port}/", {}, b"{}") == Receipt(status=200)
    assert receiver.server_names == [NAME]
    assert headers_of(receiver.requests[0])["host"] == f"{NAME}:{receiver.port}"


async def test_a_certificate_for_a_literal_address_is_accepted(
    authority: Authority, receiving: Any, sender: Any
) -> None:
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
async def test_a_wrong_certificate_gets_no_request(
    authority: Authority, make: MakeServer, receiving: Any, sender: Any
) -> None:
    async with receiving(OK, tls=make(authority)) as receiver:
        webhooks = sender(receiver, tls=authority.trusted())
        assert await webhooks.send(f"https://{NAME}:{receiver.port}/", {}, b"{}") == Receipt(failure="tls")
    assert receiver.requests == []


async def test_an_unknown_authority_gets_no_request(
    authority: Authority, receiving: Any, sender: Any
) -> None:
    async with receiving(OK, tls=authority.server(x509.DNSName(NAME))) as receiver:
        assert await sender(receiver).send(f"https://{NAME}:{receiver.port}/", {}, b"") == Receipt(
            failure="tls"
        )
    assert receiver.requests == []


async def test_a_server_without_tls_is_a_tls_failure(sender: Any, receiver_at: Any) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(answer, ALLOWED, 0)
    async with server:
        receiver = receiver_at(server.sockets[0].getsockname()[1])
        receipt = await sender(receiver).send(f"https://{NAME}:{receiver.port}/", {}, b"")
    assert receipt == Receipt(failure="tls")
