"""Which service a command talks to: a running one, or one that is started for the call."""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, json

from overnight.cli.exits import Exit, Unable
from overnight.cli.starting import explained
from overnight.cli.text import visible
from overnight.client import ApiProblem, AsyncClient, ServiceUnreachable
from overnight.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """`data`: where it keeps its files, if that is known. `temporary`: it ends with this call.

    `guessed`: it says that it is an overnight, and so can anybody on this machine: it is told no key.
    """

    url: str
    data: Path | None = None
    temporary: bool = False
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """`there`: the options that lead a further command to the same service; empty if it needs none."""

    client: AsyncClient
    service: Service
    there: str


def _options(settings: Settings) -> str:
    if settings.url is not None:
        return f" --url {shlex.quote(visible(settings.url))}"
    if "data" in settings.model_fields_set:
        return f" --data {shlex.quote(visible(str(near(settings.data))))}"
    return ""


def near(path: Path) -> Path:
    """The path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


class _Record(Struct):
    """`service.json` in the data directory, written by a service while it runs."""

    url: str
    pid: int


@asynccontextmanager
async def connected(
    settings: Settings, *, works: bool = False, may_start: bool = True
) -> AsyncIterator[Connected]:
    """A client of the running service, or of one that lives in this process for the call.

    `works`: a service started here also runs jobs; otherwise it only reads and writes what is stored. Raises
    Unable if there is no service and none may be started.
    """
    service = await running(settings)
    if service is None and not may_start:
        raise Unable(
            f"no service is running on {settings.data}. Nothing was submitted. Start one with "
            "`overnight serve` (it keeps running), or leave out --detach."
        )
    if service is None and works and settings.lacks_key:
        raise Unable(
            "ANTHROPIC_API_KEY is not set: without a key every job fails. Nothing was done. Set it, or try without "
            "one, free of charge: OVERNIGHT_REHEARSAL=1, or `overnight serve --rehearsal` in another terminal.",
            Exit.USAGE,
        )
    if service is None:
        async with _started(settings, works=works) as service, _client(service, settings) as client:
            yield Connected(client, service, _options(settings))
    else:
        async with _client(service, settings) as client:
            yield Connected(client, service, _options(settings))


def _client(service: Service, settings: Settings) -> AsyncClient:
    key = settings.api_key.get_secret_value().strip() if settings.api_key else None
    if key and service.guessed:
        raise Unable(
            f"a service answers at {service.url}, but nothing says that it is yours, so OVERNIGHT_API_KEY was not "
            "sent to it. Nothing was done. If it is yours, name it with --url or OVERNIGHT_URL."
        )
    try:
        return AsyncClient(service.url, api_key=key or None)
    except ValueError as error:
        raise Unable(f"OVERNIGHT_API_KEY: {error}. Nothing was done.", Exit.USAGE) from None


async def running(settings: Settings) -> Service | None:
    """The service to talk to. Raises Unable if one was named that is not there."""
    if settings.url is not None:
        if not await _is_overnight(settings.url):
            raise Unable(
                f"there is no overnight service at {settings.url}. Nothing was done. Check --url or "
                "OVERNIGHT_URL, or leave it out to use the one on this machine."
            )
        return Service(settings.url)
    for candidate in _candidates(settings):
        if await _is_overnight(candidate.url):
            return candidate
    return None


def _candidates(settings: Settings) -> Iterator[Service]:
    recorded = _read_record(settings.data)
    if recorded is not None:
        # A service that was killed leaves its record, and its port to anybody.
        yield Service(recorded.url, data=settings.data, guessed=not _lives(recorded.pid))
    if "data" not in settings.model_fields_set and settings.port:
        # Somebody who names a data directory means that one, not whatever listens on the usual port.
        yield Service(f"http://127.0.0.1:{settings.port}", guessed=True)


def _read_record(data: Path) -> _Record | None:
    try:
        return json.decode((data / "service.json").read_bytes(), type=_Record)
    except (OSError, DecodeError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


async def _is_overnight(url: str) -> bool:
    try:
        async with AsyncClient(url, timeout=5.0) as client:
            return (await client.health()).service == "overnight"
    except (ApiProblem, ServiceUnreachable):
        return False
    except ValueError as error:
        raise Unable(str(error)) from None


@asynccontextmanager
async def _started(settings: Settings, *, works: bool) -> AsyncIterator[Service]:
    """In a task of its own, so that what the command raises is not taken for a failure of the service."""
    own = settings.model_copy(
        update={"port": 0, "host": "127.0.0.1", "concurrency": settings.concurrency if works else 0}
    )
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()
    serving: asyncio.Future[None] = asyncio.create_task(_serve(own, url, over))
    either: set[asyncio.Future[Any]] = {serving, url}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if url.done():
            yield Service(url.result(), data=settings.data, temporary=True)
    finally:
        over.set()
        await serving


async def _serve(settings: Settings, url: "asyncio.Future[str]", over: asyncio.Event) -> None:
    from overnight.wiring import running_service  # noqa: PLC0415 - slow to import, and mostly one runs already

    with explained(settings):
        async with running_service(settings, recorded=False) as service:
            url.set_result(service.url)
            await over.wait()
