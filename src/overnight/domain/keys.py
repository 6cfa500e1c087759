"""API keys: how they look, who a caller is, and what happens to a key in its life.

A key is `ovn_`, an id of 8 characters, a secret of 43 and a checksum of 6, all base62 (facts: security 8). The
secret has 256 random bits, so a plain SHA-256 keeps it; the checksum lets a secret scanner, and us, tell a key
from other text without a look into the store.
"""

import hashlib
import hmac
import math
import re
import zlib
from dataclasses import dataclass, field, replace
from enum import StrEnum

from overnight.domain.errors import RotationUnderWay

PREFIX = "ovn_"
ID_LENGTH = 8
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
RANDOM_BYTES = 40
"""8 of them for the id, 32 for the secret."""
MAX_NAME = 100
LONGEST_LIFE_SECONDS = 100 * 366 * 86_400.0
DEFAULT_REQUESTS_PER_MINUTE = 60
DEFAULT_MAX_QUEUED = 1000
LIVE_WEBHOOK_SECRETS = 2
TOUCH_SECONDS = 60.0
"""`last_used_at` is exact to this: a write for every request would cost more than the request."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(
    rf"(?P<id>{PREFIX}[0-9A-Za-z]{{{ID_LENGTH}}})(?P<secret>[0-9A-Za-z]{{{SECRET_LENGTH}}})"
    rf"(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_LENGTH}}})",
    re.ASCII,
)
_KEY_ID = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{ID_LENGTH}}}", re.ASCII)
_OWNER = re.compile(r"[A-Za-z0-9._:@/-]{1,64}", re.ASCII)


class InvalidKey(ValueError):
    """The text is not a key, or not what is said about one. The message never repeats it."""


class Scope(StrEnum):
    """`submit` sends and changes jobs and sessions, `read` looks at them, `admin` does both for every owner."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What a key may use; None is no limit, no models are all models.

    `requests_per_minute` counts the requests of the key that change something; the jobs and the US dollars of
    a UTC day are counted over all keys of the owner.
    """

    requests_per_minute: int | None = None
    max_queued: int | None = None
    max_running: int | None = None
    daily_budget_usd: float | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is stored. `webhook_secrets` are the live ones, the newest first: signing needs them whole."""

    key_id: str
    name: str
    secret_sha256: str
    scopes: frozenset[Scope]
    owner: str
    created_at: float
    limits: KeyLimits = field(default_factory=KeyLimits)
    webhook_secrets: tuple[str, ...] = ()
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    def lives(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `key_id` is None without a key, which only a service that has no keys yet accepts."""

    owner: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, owner: str) -> bool:
        return owner == self.owner or Scope.ADMIN in self.scopes

    @property
    def lists(self) -> str | None:
        """The owner that listings are held to; None for all of them."""
        return None if Scope.ADMIN in self.scopes else self.owner


LOCAL = Caller(owner="", scopes=frozenset({Scope.ADMIN}))
"""Whoever reaches a service that has no keys: its jobs belong to nobody, that is, to every administrator."""


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """The parts of a key that a caller sent."""

    key_id: str
    secret: str = field(repr=False)


def new_key(random: bytes) -> str:
    """A key in the form that its owner gets, from RANDOM_BYTES of a cryptographic source."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a key is made from {RANDOM_BYTES} random bytes")
    key_id = _base62(int.from_bytes(random[:8], "big"), ID_LENGTH)
    secret = _base62(int.from_bytes(random[8:], "big"), SECRET_LENGTH)
    body = f"{PREFIX}{key_id}{secret}"
    return body + _checksum(body)


def make_key(
    *,
    name: str,
    owner: str | None,
    scopes: frozenset[Scope],
    limits: KeyLimits,
    webhook_secret: str,
    expires_at: float | None,
    random: bytes,
    now: float,
) -> tuple[str, ApiKey]:
    """A new key: the text that is shown once, and what is stored. Its owner is the key itself if none is named.

    Raises InvalidKey.
    """
    text = new_key(random)
    presented = parse_key(text)
    return text, ApiKey(
        key_id=presented.key_id,
        name=parse_name(name),
        secret_sha256=digest(presented.secret),
        scopes=scopes,
        owner=presented.key_id if owner is None else parse_owner(owner),
        created_at=now,
        limits=_checked(limits),
        webhook_secrets=(webhook_secret,),
        expires_at=None if expires_at is None else _later(expires_at, now),
    )


def parse_key(text: str) -> PresentedKey:
    """Raises InvalidKey, also for a key with a typing error: its checksum does not fit."""
    found = _FORM.fullmatch(text)
    if found is None or _checksum(found["id"] + found["secret"]) != found["checksum"]:
        raise InvalidKey("that is not an API key of overnight")
    return PresentedKey(found["id"], found["secret"])


def parse_key_id(text: str) -> str:
    if _KEY_ID.fullmatch(text) is None:
        raise InvalidKey(f"the id of a key is `{PREFIX}` and {ID_LENGTH} letters or digits")
    return text


def parse_owner(text: str) -> str:
    if _OWNER.fullmatch(text) is None:
        raise InvalidKey("an owner is 1 to 64 letters, digits or any of . _ : @ / -")
    return text


def parse_name(text: str) -> str:
    if not text.strip() or len(text) > MAX_NAME or not text.isprintable():
        raise InvalidKey(f"the name of a key is 1 to {MAX_NAME} printable characters")
    return text


def _later(expires_at: float, now: float) -> float:
    """A time that a calendar has: one of "never" or "not a number" could not be listed."""
    if not now < expires_at <= now + LONGEST_LIFE_SECONDS:
        raise InvalidKey("a key ends after now, and within 100 years, or never")
    return expires_at


def _checked(limits: KeyLimits) -> KeyLimits:
    """What is not a number is no limit: nothing compares as more than it."""
    if limits.daily_budget_usd is not None and not math.isfinite(limits.daily_budget_usd):
        raise InvalidKey("a budget is a number of US dollars; leave it out for none")
    return limits


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def caller_of(presented: PresentedKey, stored: ApiKey | None, *, now: float) -> Caller | None:
    """The caller that the key stands for; None for an unknown, wrong, revoked or expired one.

    An unknown id takes as long as a wrong secret: it is compared with a digest that nothing has.
    """
    known = stored.secret_sha256 if stored is not None else _NOTHING
    same = hmac.compare_digest(digest(presented.secret).encode(), known.encode())
    if stored is None or not same or not stored.lives(now):
        return None
    return Caller(owner=stored.owner, scopes=stored.scopes, key_id=stored.key_id, limits=stored.limits)


def revoke(key: ApiKey, *, now: float) -> ApiKey | None:
    return None if key.revoked_at is not None else replace(key, revoked_at=now)


def touch(key: ApiKey, *, now: float) -> ApiKey | None:
    """Note that the key was used, unless that was noted a moment ago."""
    fresh = key.last_used_at is not None and now - key.last_used_at < TOUCH_SECONDS
    return None if fresh else replace(key, last_used_at=now)


def rotate_webhook_secret(key: ApiKey, *, secret: str) -> ApiKey:
    """Sign with the new secret and with the old one, until the rotation is finished."""
    if len(key.webhook_secrets) >= LIVE_WEBHOOK_SECRETS:
        raise RotationUnderWay("two webhook secrets are live already")
    return replace(key, webhook_secrets=(secret, *key.webhook_secrets))


def finish_webhook_rotation(key: ApiKey) -> ApiKey | None:
    """Sign with the newest secret only. Idempotent."""
    return None if len(key.webhook_secrets) < 2 else replace(key, webhook_secrets=key.webhook_secrets[:1])


_NOTHING = "0" * hashlib.sha256().digest_size * 2


def _base62(number: int, length: int) -> str:
    """The last `length` digits, with zeros before them if there are fewer."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)
