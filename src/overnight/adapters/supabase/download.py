"""Fetching an object: streamed to a file, gone on with after a break, and checked."""

import asyncio
import errno
import hashlib
from pathlib import Path
from typing import BinaryIO

import httpx

from overnight.adapters.supabase.connection import Connection
from overnight.adapters.supabase.faults import StorageFault
from overnight.adapters.supabase.objects import Info, Objects
from overnight.adapters.supabase.patience import passes, unreachable
from overnight.archive.durable import whole_file

BLOCK = 1 << 20
TRIES = 3
"""Of a whole object: an alias may be replaced, or a cache be stale, while it is read."""


class _Changed(Exception):
    """What came is not the object that was described."""


class _Copy:
    """What has come of an object so far. MD5 is worked out only if the server knows nothing better."""

    def __init__(self, file: BinaryIO, info: Info) -> None:
        self.etag: str | None = None
        self._file = file
        self._info = info
        self._sha256 = hashlib.sha256()
        by_md5 = info.sha256 is None and info.md5 is not None
        self._md5 = hashlib.md5(usedforsecurity=False) if by_md5 else None

    @property
    def size(self) -> int:
        return self._file.tell()

    def keep(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._md5 is not None:
            self._md5.update(block)
        self._file.write(block)

    def checked(self) -> str:
        """The SHA-256. Raises _Changed."""
        sha256 = self._sha256.hexdigest()
        if self.size != self._info.size or self._info.sha256 not in {None, sha256}:
            raise _Changed
        if self._md5 is not None and self._md5.hexdigest() != self._info.md5:
            raise _Changed
        return sha256


class Download:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._objects = Objects(connection)

    async def to(self, key: str, target: Path) -> tuple[int, str]:
        """(size, SHA-256) of what `target` now holds. Raises StorageFault, OSError."""
        for _ in range(TRIES):
            info = await self._objects.info(key)
            try:
                with whole_file(target, durable=False) as file:
                    return info.size, await self._whole(key, info, file)
            except _Changed:
                continue
        raise OSError(errno.EIO, "The archive no longer has the size or checksum it was stored with", key)

    async def part(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on. Raises StorageFault, Unreachable, OSError."""
        return await self._connection.patience.over(lambda: self._part(key, start, length))

    async def _part(self, key: str, start: int, length: int) -> bytes:
        headers = {"range": f"bytes={start}-{start + length - 1}"}
        async with self._connection.stream(self._path(key), headers) as answer:
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                raise OSError(
                    errno.EIO, "Supabase Storage did not answer with the part that was asked for", key
                )
            return await answer.aread()

    async def sha256(self, key: str) -> str:
        """Of the bytes that the server hands out now. Raises StorageFault, Unreachable."""
        return await self._connection.patience.over(lambda: self._hash(key))

    async def _hash(self, key: str) -> str:
        digest = hashlib.sha256()
        async with self._connection.stream(self._path(key), {}) as answer:
            async for block in answer.aiter_raw(BLOCK):
                await asyncio.to_thread(digest.update, block)
        return digest.hexdigest()

    async def _whole(self, key: str, info: Info, file: BinaryIO) -> str:
        copy, patience, failures = _Copy(file, info), self._connection.patience, 0
        while (have := copy.size) < info.size:
            try:
                await self._stretch(key, copy)
                break  # That was the rest of it, be it too short or not.
            except (httpx.TransportError, StorageFault) as error:
                failures = 1 if copy.size > have else failures + 1
                if not passes(error):
                    raise
                if failures > len(patience.delays):
                    raise unreachable(error) from error
                await patience.wait(patience.delays[failures - 1])
        return copy.checked()

    async def _stretch(self, key: str, copy: _Copy) -> None:
        """From where the copy ends, as far as the connection lasts."""
        headers = {"range": f"bytes={copy.size}-"} if copy.size else {}
        async with self._connection.stream(self._path(key), headers) as answer:
            etag = answer.headers.get("etag", "")
            if copy.size and (answer.status_code != httpx.codes.PARTIAL_CONTENT or etag != copy.etag):
                raise _Changed
            copy.etag = etag
            async for block in answer.aiter_raw(BLOCK):
                await asyncio.to_thread(copy.keep, block)

    def _path(self, key: str) -> str:
        return f"/object/authenticated/{self._connection.access.bucket}/{key}"
