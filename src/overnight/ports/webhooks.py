"""The sender of webhooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one try at a webhook: an HTTP status, or a class of failure, never a receiver's words.

    `failure` is one of dns, address_denied, tls, connect, timeout, protocol, url_refused.
    """

    status: int | None = None
    failure: str | None = None
    retry_after_seconds: float | None = None


class Webhooks(Protocol):
    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """One try. Raises nothing that a receiver or a network can cause."""
        ...
