"""The blocking client: the asynchronous one on an event loop in a thread of its own.

It works from any thread, also where an event loop already runs (a notebook).
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from overnight.client.aio import AsyncClient
from overnight.client.model import Event, Health, Job, JobOptions, Session, Submitted

T = TypeVar("T")


class Client:
    """The same calls as AsyncClient, with the same meaning; use it as `with Client(url) as client`."""

    def __init__(self, base_url: str = "http://127.0.0.1:8080", **settings: Any) -> None:
        self._client = AsyncClient(base_url, **settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="overnight-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._loop.is_closed():
            return
        self._call(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return self._client.url

    def submit(
        self,
        prompt: str,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Submitted:
        return self._call(self._client.submit(prompt, session_id, idempotency_key, **options))

    def status(self, job_id: str) -> Job:
        return self._call(self._client.status(job_id))

    def jobs(
        self,
        *,
        status: str | list[str] | None = None,
        session_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        return self._each(self._client.jobs(status=status, session_id=session_id, limit=limit))

    def cancel(self, job_id: str) -> Job:
        return self._call(self._client.cancel(job_id))

    def retry(self, job_id: str) -> Job:
        return self._call(self._client.retry(job_id))

    def events(self, job_id: str, *, after: int = 0, follow: bool = True) -> Iterator[Event]:
        return self._each(self._client.events(job_id, after=after, follow=follow))

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        return self._call(self._client.wait(job_id, timeout=timeout))

    def sessions(self, *, limit: int | None = None) -> Iterator[Session]:
        return self._each(self._client.sessions(limit=limit))

    def session(self, session_id: str) -> Session:
        return self._call(self._client.session(session_id))

    def download_archive(self, session_id: str, path: str | Path) -> int:
        return self._call(self._client.download_archive(session_id, path))

    def download_file(self, session_id: str, name: str, path: str | Path) -> int:
        return self._call(self._client.download_file(session_id, name, path))

    def upload_archive(self, path: str | Path, session_id: str | None = None) -> Session:
        return self._call(self._client.upload_archive(path, session_id))

    def delete_session(self, session_id: str) -> bool:
        return self._call(self._client.delete_session(session_id))

    def health(self) -> Health:
        return self._call(self._client.health())

    def _call(self, call: Coroutine[Any, Any, T]) -> T:
        over = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_told(call, over), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():  # Ctrl-C here must end the call over there too, before the next one begins
                over.wait()
            raise

    def _each(self, source: AsyncGenerator[T, None]) -> Iterator[T]:
        try:
            while (item := self._call(_next(source))) is not None:
                yield item
        finally:
            if not self._loop.is_closed():
                self._call(source.aclose())


async def _told(call: Coroutine[Any, Any, T], over: threading.Event) -> T:
    try:
        return await call
    finally:
        over.set()


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    return await anext(source, None)
