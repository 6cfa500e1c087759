"""What an edge shows of itself: that it answers, its version, its clock, and its ledger."""

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from overnight.adapters.cloudflare.documents import Read
from overnight.adapters.cloudflare.over_http import edge_documents
from overnight.adapters.system import SystemClock
from overnight.ports import Clock

TIMEOUT_SECONDS = 30.0
LOOKED_AT = "overnight:look"
"""An object of the ledger that nobody writes: reading it tries the token and the protocol, and makes nothing."""


class NoEdge(Exception):
    """The message says what answers there instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """`ahead_seconds`: how much this machine's clock is ahead of the edge's, to a second or so; None if the edge
    does not tell."""

    version: str
    ahead_seconds: float | None


async def look_at_edge(url: str, clock: Clock | None = None) -> Seen:
    """Raises NoEdge."""
    clock = clock or SystemClock()
    before = clock.now()
    try:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False) as http:
            answer = await http.get("/healthz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoEdge(f"{url} cannot be reached ({type(error).__name__})") from None
    try:
        health = answer.json()
        service, version = health["service"], str(health.get("version", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoEdge(f"{url} does not answer as an edge does (HTTP {answer.status_code})") from None
    if service != "overnight":
        raise NoEdge(f"{url} is another service")
    middle = (before + clock.now()) / 2
    return Seen(version=version, ahead_seconds=_ahead(answer.headers.get("date"), middle))


async def look_at_ledger(url: str, token: str) -> None:
    """Raises StorageError: the token is not the edge's, or the protocols differ."""
    async with edge_documents(url, token) as documents:
        await documents.read(LOOKED_AT, Read(keys=["none"]))


def _ahead(date: str | None, now: float) -> float | None:
    """The header has whole seconds, so half of one is added."""
    if date is None:
        return None
    try:
        return now - (parsedate_to_datetime(date).timestamp() + 0.5)
    except ValueError:
        return None
