"""Ids: how they look, and how they are made from a time and random bytes."""

import re

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_DELIVERY = re.compile(r"msg_[0-9a-f]{32}", re.ASCII)


class InvalidId(ValueError):
    """The text is not an id. The message never repeats it."""


def parse_uuid(text: str) -> str:
    """A job or session id in the one form we accept: lower case, 8-4-4-4-12.

    `uuid.UUID()` would also take braces, `urn:`, underscores and full-width digits (facts: security 8),
    which would give one object several names.
    """
    if _UUID.fullmatch(text) is None:
        raise InvalidId("an id is a lower-case UUID: 8-4-4-4-12 hexadecimal digits")
    return text


def parse_delivery_id(text: str) -> str:
    if _DELIVERY.fullmatch(text) is None:
        raise InvalidId("a delivery id is `msg_` and 32 hexadecimal digits")
    return text


def uuid7(now: float, random: bytes) -> str:
    """A time-ordered UUID (RFC 9562, version 7) from Unix seconds and 10 random bytes.

    Ordered keys stay cheap to insert however many rows there are (facts: queue 6).
    """
    milliseconds = int(now * 1000).to_bytes(6, "big")
    return _uuid(milliseconds + random[:10], version=7)


def uuid4(random: bytes) -> str:
    """A random UUID (version 4) from 16 random bytes."""
    return _uuid(random[:16], version=4)


def _uuid(raw: bytes, *, version: int) -> str:
    octets = bytearray(raw)
    octets[6] = (octets[6] & 0x0F) | (version << 4)
    octets[8] = (octets[8] & 0x3F) | 0x80
    text = octets.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
