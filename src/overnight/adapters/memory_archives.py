"""Archives in memory, for tests."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from overnight.archive.names import check_name, check_prefix
from overnight.ports import (
    ArchiveConflict,
    ArchiveMissing,
    Clock,
    Growth,
    ListedArchive,
    StoredArchive,
    whole,
)
from overnight.threads import to_its_end


class MemoryArchives:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._contents: dict[str, bytes] = {}
        self._stored_at: dict[str, float] = {}

    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        """The source is taken over: it is gone afterwards."""
        check_name(name)
        await whole(growth)
        content = await asyncio.to_thread(source.read_bytes)
        if self._contents.setdefault(name, content) != content:
            raise ArchiveConflict
        self._stored_at.setdefault(name, self._clock.now())
        await asyncio.to_thread(source.unlink, missing_ok=True)
        return _described(name, content)

    async def fetch(self, name: str, target: Path) -> StoredArchive:
        content = self._content(check_name(name))
        await to_its_end(lambda _: target.write_bytes(content))
        return _described(name, content)

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        return self._content(check_name(name))[start : start + length]

    async def publish(self, name: str, alias: str) -> None:
        self._contents[check_name(alias)] = self._content(check_name(name))
        self._stored_at[alias] = self._clock.now()

    async def delete(self, name: str) -> None:
        self._contents.pop(check_name(name), None)
        self._stored_at.pop(name, None)

    async def listing(self, prefix: str) -> Sequence[ListedArchive]:
        check_prefix(prefix)
        return [
            ListedArchive(name=name, size=len(content), stored_at=self._stored_at[name])
            for name, content in sorted(self._contents.items())
            if name.startswith(prefix)
        ]

    def _content(self, name: str) -> bytes:
        try:
            return self._contents[name]
        except KeyError:
            raise ArchiveMissing from None


def _described(name: str, content: bytes) -> StoredArchive:
    return StoredArchive(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
