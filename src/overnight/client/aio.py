"""The asynchronous client. The blocking one (`overnight.client.Client`) is this one behind a thread."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

import httpx
from msgspec import DecodeError, Struct, json

from overnight.client import transfer
from overnight.client.connection import IMPATIENT, Connection, Patience, Request, segment
from overnight.client.errors import ApiProblem
from overnight.client.feed import Feed
from overnight.client.model import Event, Health, Job, JobOptions, Session, Submitted
from overnight.domain.ids import uuid4

T = TypeVar("T")

PAGE = 100


class AsyncClient:
    """Talks to one service; use it as `async with AsyncClient(url, api_key="ovn_...") as client`.

    Every call raises ApiProblem when the service refuses, and ServiceUnreachable when there is no answer after
    patient tries. Calls that the service may see twice without harm are tried again: reading, `submit` (it
    always carries an idempotency key) and `cancel`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        token: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        self._connection = Connection(
            base_url,
            timeout=timeout,
            patience=patience or Patience(),
            api_key=api_key,
            transport=transport,
            pause=pause,
        )
        self._token = token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    @property
    def url(self) -> str:
        return self._connection.url

    async def submit(
        self,
        prompt: str,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Submitted:
        """Queue a job. With your own key (one per intention) it is made once even if your program dies and
        asks again; without one, a key is made for this call."""
        asked = {"prompt": prompt, "session_id": session_id, **options}
        body = {name: value for name, value in asked.items() if value is not None}
        response = await self._connection.send(
            Request(
                method="POST",
                path="/execute",
                headers={
                    "Content-Type": "application/json",
                    "Idempotency-Key": idempotency_key or self._token(),
                },
                content=json.encode(body),
            )
        )
        submitted = _decode(response, Submitted)
        return Submitted(
            job_id=submitted.job_id,
            session_id=submitted.session_id,
            status=submitted.status,
            message=submitted.message,
            replayed="idempotent-replayed" in response.headers,
        )

    async def status(self, job_id: str) -> Job:
        return await self._get(f"/status/{segment(job_id)}", Job)

    async def jobs(
        self,
        *,
        status: str | list[str] | None = None,
        session_id: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Newest first, without results; `limit` of them, or all."""
        asked = {"status": status, "session_id": session_id}
        async for job in self._listing("/jobs", _Page[Job], asked, limit):
            yield job

    async def cancel(self, job_id: str) -> Job:
        return await self._post(f"/jobs/{segment(job_id)}/cancel", repeatable=True)

    async def retry(self, job_id: str) -> Job:
        """Send a failed job again. Tried once: it may have failed again before the second time, and would run anew.
        If there is no answer, look at the job's events: `job.resent` says that it was sent."""
        return await self._post(f"/jobs/{segment(job_id)}/retry", repeatable=False)

    async def events(
        self, job_id: str, *, after: int = 0, follow: bool = True
    ) -> AsyncGenerator[Event, None]:
        """The job's events from number `after` on: those so far, then live until the job has ended.

        Broken connections are taken up where they broke; no event comes twice. With `follow=False` it stops at
        the newest event.
        """
        source = Feed(self._connection, job_id, after).events() if follow else self._past(job_id, after)
        try:
            async for event in source:
                yield event
        finally:
            await source.aclose()

    async def wait(self, job_id: str, *, timeout: float | None = None) -> Job:  # noqa: ASYNC109 as the blocking client has it
        """The job, once it has its final status. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not (job := await self.status(job_id)).final:
                async for _ in self.events(job_id):
                    pass
        return job

    async def sessions(self, *, limit: int | None = None) -> AsyncGenerator[Session, None]:
        """Newest first; `limit` of them, or all."""
        async for session in self._listing("/sessions", _Page[Session], {}, limit):
            yield session

    async def session(self, session_id: str) -> Session:
        return await self._get(f"/sessions/{segment(session_id)}", Session)

    async def download_archive(self, session_id: str, path: str | Path) -> int:
        """Save the session's archive as `path`, whole or not at all; returns its size in bytes."""
        return await self._download(f"/sessions/{segment(session_id)}/archive", Path(path))

    async def download_file(self, session_id: str, name: str, path: str | Path) -> int:
        """The same for one file of the archive; `name` is its path in the workspace."""
        parts = "/".join(segment(part) for part in name.split("/"))
        return await self._download(f"/sessions/{segment(session_id)}/files/{parts}", Path(path))

    async def upload_archive(self, path: str | Path, session_id: str | None = None) -> Session:
        """Start a session from a zip; its id is made here if you name none."""
        source = Path(path)
        size = (await asyncio.to_thread(source.stat)).st_size
        response = await self._connection.send(
            Request(
                method="PUT",
                path=f"/sessions/{segment(session_id or uuid4(secrets.token_bytes(16)))}/archive",
                repeatable=False,
                headers={"Content-Type": "application/zip", "Content-Length": str(size)},
                content=transfer.pieces(source),
            )
        )
        return _decode(response, Session)

    async def delete_session(self, session_id: str) -> bool:
        """Erase the session: its jobs, events and archives. False: it is gone, but a part is still to be deleted."""
        path = f"/sessions/{segment(session_id)}"
        response = await self._connection.send(Request(method="DELETE", path=path, repeatable=False))
        return response.status_code == httpx.codes.NO_CONTENT

    async def health(self) -> Health:
        """One try, without patience: is an overnight service there?"""
        response = await self._connection.send(Request(method="GET", path="/healthz"), patience=IMPATIENT)
        return _decode(response, Health)

    async def _get(self, path: str, kind: type[T], **params: Any) -> T:
        given = {name: value for name, value in params.items() if value is not None}
        return _decode(await self._connection.send(Request(method="GET", path=path, params=given)), kind)

    async def _post(self, path: str, *, repeatable: bool) -> Job:
        request = Request(method="POST", path=path, repeatable=repeatable)
        return _decode(await self._connection.send(request), Job)

    async def _listing(
        self, path: str, kind: "type[_Page[T]]", asked: dict[str, Any], limit: int | None
    ) -> AsyncGenerator[T, None]:
        """All pages as one sequence."""
        cursor: str | None = None
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(limit, PAGE)
            page = await self._get(path, kind, limit=size, cursor=cursor, **asked)
            for row in page.data:
                yield row
            limit = None if limit is None else limit - len(page.data)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _past(self, job_id: str, after: int) -> AsyncGenerator[Event, None]:
        while True:
            page = await self._get(f"/jobs/{segment(job_id)}/events", _Events, after=after, limit=PAGE)
            for event in page.data:
                yield event
            if page.final or not page.data:  # a page of large events may be a short one
                return
            after = page.next_after

    async def _download(self, path: str, target: Path) -> int:
        request = Request(method="GET", path=path)
        async with transfer.replacing(target) as partial, self._connection.stream(request) as response:
            return await transfer.save(response, partial)


class _Page(Struct, Generic[T]):
    data: list[T]
    next_cursor: str | None = None


class _Events(Struct):
    data: list[Event]
    next_after: int
    final: bool = False


def _decode(response: httpx.Response, kind: type[T]) -> T:
    try:
        return json.decode(response.content, type=kind)
    except DecodeError as error:
        raise ApiProblem(
            response.status_code, "unexpected_answer", "That is not an answer of overnight."
        ) from error
