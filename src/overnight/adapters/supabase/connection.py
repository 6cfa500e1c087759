"""Requests to one project's storage, each tried with patience."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from overnight.adapters.supabase.access import Access
from overnight.adapters.supabase.faults import Fault, StorageFault, fault_of
from overnight.adapters.supabase.patience import Patience

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds without any progress, not of a whole transfer."""


@dataclass(frozen=True, slots=True)
class Connection:
    http: httpx.AsyncClient
    access: Access
    patience: Patience
    nonce: Callable[[], str]

    async def once(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | AsyncIterable[bytes] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Raises StorageFault, httpx.TransportError."""
        sent = {**self.access.headers, **(headers or {})}
        answer = await self.http.request(method, url, headers=sent, json=json, content=content, params=params)
        if not answer.is_success:
            raise fault_of(answer.status_code, answer.content)
        return answer

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON of the answer to a request that may be sent again. Raises StorageFault, Unreachable."""

        async def attempt() -> Any:
            url = f"{self.access.rest}{path}"
            return _json(await self.once(method, url, headers=headers, json=json, params=params))

        return await self.patience.over(attempt)

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The body of one GET, as it comes. Raises StorageFault, httpx.TransportError."""
        sent = {**self.access.headers, "accept-encoding": "identity", **headers}
        url, unique = f"{self.access.rest}{path}", {"v": self.nonce()}
        async with self.http.stream("GET", url, headers=sent, params=unique) as answer:
            if not answer.is_success:
                raise fault_of(answer.status_code, await answer.aread())
            yield answer


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise StorageFault(Fault.PASSING, "an answer that is no JSON") from None


@asynccontextmanager
async def connected(
    access: Access, patience: Patience, nonce: Callable[[], str]
) -> AsyncIterator[Connection]:
    """`nonce` makes every read unique, since caches keep answers for up to a minute (facts: supabase 5)."""
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=30.0)
    async with httpx.AsyncClient(
        timeout=TIMEOUT, limits=limits, trust_env=False, follow_redirects=False
    ) as http:
        yield Connection(http, access, patience, nonce)
