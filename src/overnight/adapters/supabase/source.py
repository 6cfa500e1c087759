"""The file that is sent: read by small blocks in a thread, and hashed front to back as it is sent."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 256 * 1024
"""What one upload holds in memory, more or less (facts: supabase 7)."""


class Source:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._restart()

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    async def blocks(self, offset: int, size: int) -> AsyncIterator[bytes]:
        """`size` bytes from `offset`. Raises OSError if the file has become shorter."""
        end = offset + size
        while offset < end:
            block = await asyncio.to_thread(self._read, offset, min(BLOCK, end - offset))
            yield block
            offset += len(block)

    async def sha256(self, size: int) -> str:
        """Of the first `size` bytes. Cheap if it is asked for ever more of them."""
        return await asyncio.to_thread(self._hash, size)

    async def md5(self, size: int) -> str:
        return await asyncio.to_thread(self._md5, size)

    def _restart(self) -> None:
        self._hashed, self._digest = 0, hashlib.sha256()

    def _hash(self, size: int) -> str:
        if size < self._hashed:
            self._restart()
        for block in self._each(self._hashed, size):
            self._digest.update(block)
        self._hashed = size
        return self._digest.hexdigest()

    def _md5(self, size: int) -> str:
        digest = hashlib.md5(usedforsecurity=False)  # what the server's etag is
        for block in self._each(0, size):
            digest.update(block)
        return digest.hexdigest()

    def _each(self, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            block = self._read(offset, min(BLOCK, end - offset))
            yield block
            offset += len(block)

    def _read(self, offset: int, size: int) -> bytes:
        block = os.pread(self._descriptor, size, offset)
        if not block:
            raise OSError("The archive became shorter while it was uploaded.")
        return block


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Source(descriptor)
    finally:
        os.close(descriptor)
