"""Signatures by Standard Webhooks, version 1: HMAC-SHA256 over `id.timestamp.body` (facts: security 6)."""

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24


def sign(secret: bytes, message_id: str, timestamp_seconds: int, body: bytes) -> str:
    """The value of `webhook-signature`. `body` is exactly what is sent; the id must have no dot."""
    if not message_id or "." in message_id:
        raise ValueError(
            "a message id is not empty and has no dot, or the signed text could be read two ways"
        )
    signed = f"{message_id}.{timestamp_seconds}.".encode() + body
    return "v1," + b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode("ascii")


def sign_with_each(secrets: Sequence[bytes], message_id: str, timestamp_seconds: int, body: bytes) -> str:
    """One signature per live secret: while a secret is replaced, receivers that know either one verify it."""
    if not secrets:
        raise ValueError("a webhook is signed with at least one secret")
    return " ".join(sign(secret, message_id, timestamp_seconds, body) for secret in secrets)


def parse_secret(text: str) -> bytes:
    """The key inside `whsec_...`. Raises ValueError, whose message never repeats the text."""
    key = _decoded(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if key is None or len(key) < MIN_SECRET_BYTES:
        raise ValueError(
            f"a webhook secret is `{PREFIX}` and the base64 of at least {MIN_SECRET_BYTES} random bytes"
        )
    return key


def new_secret(random_bytes: bytes) -> str:
    """A secret in its written form. Give it 32 bytes of a cryptographic source."""
    if len(random_bytes) < MIN_SECRET_BYTES:
        raise ValueError(f"a webhook secret needs at least {MIN_SECRET_BYTES} random bytes")
    return PREFIX + b64encode(random_bytes).decode("ascii")


def _decoded(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except ValueError:  # not base64, or not even ASCII
        return None
