"""A project for one test: the stand-in behind a wire, and a store of archives that is connected to it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.supabase_server.app import Server, storage_server
from tests.supabase_server.bucket import SECRET, Project
from tests.supabase_server.wire import Wire, wired

from overnight.adapters.supabase import Access, SupabaseArchives, supabase_archives
from overnight.adapters.supabase.patience import DELAYS, Patience
from overnight.adapters.system import SystemClock, SystemEntropy

NAME, ALIAS = "claude-code/session/job-1.1.zip", "claude-code/session.zip"
KEY = NAME
ROOM = 256 * 1024
"""More than heads and the rest of a broken block come to."""
FAST = Patience(chance=lambda: 1.0, delays=tuple(seconds / 50 for seconds in DELAYS))


@dataclass
class Place:
    """A project behind a wire, and what lies on this machine."""

    server: Server
    wire: Wire
    directory: Path

    @property
    def project(self) -> Project:
        return self.server.project

    def archives(self, key: str = SECRET) -> AbstractAsyncContextManager[SupabaseArchives]:
        return opened(self.wire.url, key, self.directory / "notes")

    def file(self, size: int, content: bytes | None = None) -> Path:
        path = self.directory / "made.zip"
        path.write_bytes(os.urandom(size) if content is None else content)
        return path

    def holds(self, key: str, path: Path) -> bool:
        return self.project.objects[key].path.read_bytes() == path.read_bytes()

    def left_over(self) -> list[str]:
        return [key for key in self.project.objects if "/.incoming/" in key]


@asynccontextmanager
async def opened(url: str, key: str, notes: Path) -> AsyncIterator[SupabaseArchives]:
    async with supabase_archives(
        Access(url=url, key=key), notes=notes, clock=SystemClock(), entropy=SystemEntropy(), patience=FAST
    ) as archives:
        yield archives


@asynccontextmanager
async def placed(directory: Path) -> AsyncIterator[Place]:
    bucket = directory / "bucket"
    bucket.mkdir()
    async with storage_server(Project(bucket)) as server, wired(server.url) as wire:
        yield Place(server, wire, directory)


class Told:
    """The Growth of a file that ends when `ending` is set. Its first `size` bytes are there at once."""

    def __init__(self, path: Path, size: int, rest: bytes, failure: Exception | None = None) -> None:
        self.path = path
        self.ending = asyncio.Event()
        self._size = size
        self._rest = rest
        self._failure = failure

    async def beyond(self, size: int) -> tuple[int, bool]:
        if size < self._size:
            return self._size, False
        await self.ending.wait()
        if self._failure is not None:
            raise self._failure
        if self._rest:
            with self.path.open("ab") as file:
                file.write(self._rest)
            self._rest = b""
        return self.path.stat().st_size, True
