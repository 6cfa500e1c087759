"""Sending requests: one place for time limits, for trying again, and for turning failures into our errors."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import httpx
from msgspec import DecodeError, Struct, json

from overnight.client.errors import ApiProblem, Fault, ServiceUnreachable

BUSY = frozenset({429, 502, 503, 504})
"""Answers that say "not now": the service or a proxy before it may take the same request a moment later."""

LATER = frozenset({"budget_exhausted"})
"""Refusals of that kind which no patience outlasts: the service names a time of hours."""

SILENCE_SECONDS = 45.0
"""Three missed heartbeats of an event stream (one every 15 s): the connection is dead although it is open."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait before each further try, and the longest wait that a service may ask for.

    The defaults outlast a restart of the service: about a minute in all.
    """

    delays: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
    longest: float = 60.0

    def wait(self, refusal: ApiProblem | ServiceUnreachable, delay: float) -> float | None:
        """Seconds to wait before the same request is sent again; None if that would be of no use."""
        if isinstance(refusal, ServiceUnreachable):
            return delay
        if refusal.status not in BUSY or refusal.code in LATER:
            return None
        return min(max(delay, refusal.retry_after or 0.0), self.longest)


IMPATIENT = Patience(delays=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`repeatable`: the service makes one thing of it however often it comes, so it may be tried again."""

    method: str
    path: str
    repeatable: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | AsyncIterator[bytes] | None = None
    silence: float | None = None


class Connection:
    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        patience: Patience,
        api_key: str | None,
        transport: httpx.AsyncBaseTransport | None,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the address of a service looks like http://127.0.0.1:8080")
        self.url = base_url.rstrip("/")
        self.patience = patience
        self.pause = pause
        self._timeout = timeout
        # A proxy named in the environment cannot reach this machine's own loopback.
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={} if api_key is None else {"Authorization": f"Bearer {_checked(api_key)}"},
            timeout=timeout,
            transport=transport,
            trust_env=not is_loopback(url.host),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, request: Request, *, patience: Patience | None = None) -> httpx.Response:
        """The answer, read whole. Raises ApiProblem, ServiceUnreachable."""
        patience = patience or self.patience
        for delay in patience.delays if request.repeatable else ():
            try:
                return await self._once(request)
            except (ApiProblem, ServiceUnreachable) as refusal:
                wait = patience.wait(refusal, delay)
                if wait is None:
                    raise
            await self.pause(wait)
        return await self._once(request)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[httpx.Response]:
        """One try; the body is not read yet. Raises ApiProblem, ServiceUnreachable, also while it is read."""
        built = self._http.build_request(
            request.method,
            request.path,
            params=request.params,
            headers=request.headers,
            content=request.content,
            timeout=httpx.Timeout(self._timeout, read=request.silence or self._timeout),
        )
        with self._translated():
            response = await self._http.send(built, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise problem_of(response)
                yield response
            finally:
                await response.aclose()

    async def _once(self, request: Request) -> httpx.Response:
        async with self.stream(request) as response:
            await response.aread()
            return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise ServiceUnreachable(self.url, _reason(error)) from error
        except httpx.HTTPError as error:  # a redirect loop, a body that does not decompress
            raise ApiProblem(0, "unexpected_answer", "That is not an answer of overnight.") from error


def _checked(api_key: str) -> str:
    """A line break in it would end the header, and other letters cannot stand in one."""
    if not (api_key.isascii() and api_key.replace("_", "").isalnum()):
        raise ValueError("an API key looks like ovn_ and 57 letters and digits")
    return api_key


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Problem(Struct):
    code: str
    detail: str = ""
    title: str = ""
    errors: tuple[Fault, ...] = ()
    request_id: str | None = None


def problem_of(response: httpx.Response) -> ApiProblem:
    """The refusal that an answer carries, also when a proxy wrote it and not overnight."""
    try:
        problem = json.decode(response.content, type=_Problem)
    except DecodeError:
        problem = _Problem(code="unexpected_answer", detail=f"The server answered {response.status_code}.")
    return ApiProblem(
        response.status_code,
        problem.code,
        problem.detail or problem.title,
        faults=problem.errors,
        request_id=problem.request_id,
        retry_after=_seconds(response.headers.get("retry-after")),
    )


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return "it took too long"
    if isinstance(error, httpx.ConnectError):
        return "no connection could be made"
    return "the connection broke"


def segment(text: str) -> str:
    """The text as one segment of a path, whatever is in it: an id given by a user leads nowhere else."""
    return quote(text, safe="").replace(".", "%2E")
