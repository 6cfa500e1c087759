"""The content of large files: independent blocks, so that what a log had before it grew is never deflated twice."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple, Protocol

from overnight.archive.codec import SYNC_MARK, CodecError, copy_block, crc32, deflate_block, inflater
from overnight.archive.model import KIB, MIB, Range
from overnight.archive.walk import omission_of

BLOCK = MIB
"""Plain bytes of a block. Independent blocks cost 0.14 % of size (facts: archive 3)."""
_LONGEST = BLOCK + 4 * KIB
"""Bytes of a block that did not shrink; measured with isal and zlib: at most 400 more than the content."""
_MOST_MARKS = 1000
"""A block with more of what looks like its end was made to waste our time."""
AT_WORK = 3
"""Blocks that are deflated at the same time or wait for it."""


class OldBlocks(Protocol):
    """The compressed content of a large file as an older archive holds it, from `start` on."""

    @property
    def start(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Less at its end."""
        ...


class LargeFile:
    """An open file with the status that it had before it was read."""

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self._status = status
        self.size = status.st_size

    def read(self, offset: int) -> bytes:
        """One block; less at the end, which is where the file ended at first. An unreadable rest is no rest."""
        pieces: list[bytes] = []
        left = min(BLOCK, self.size - offset)
        try:
            while left > 0 and (piece := os.pread(self._fd, left, offset)):
                pieces.append(piece)
                left -= len(piece)
                offset += len(piece)
        except OSError as error:
            omission_of(error)  # raises it again if the tree is not to blame
            return b""
        return b"".join(pieces)

    def is_as_before(self) -> bool:
        now, before = os.fstat(self._fd), self._status
        return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (
            before.st_size,
            before.st_mtime_ns,
            before.st_ctime_ns,
        )

    def close(self) -> None:
        os.close(self._fd)


class LargeContent:
    """Deflated block by block, the first of them taken from the old archive as far as they are the same.

    A file that does not shrink is not deflated after its first block.
    """

    def __init__(self, file: LargeFile, old: OldBlocks | None) -> None:
        self._file = file
        self._old = old
        self._pack: Callable[..., bytes] | None = None
        self._ended = False
        self.crc = 0
        self.size = 0
        self.reused_bytes = 0

    @property
    def largest(self) -> int:
        return self._file.size

    @property
    def steady(self) -> bool:
        return self.size == self._file.size and self._file.is_as_before()

    def close(self) -> None:
        self._file.close()

    def chunks(self, pool: Executor) -> Iterator[bytes | Range]:
        for block in self._reused():
            self._choose(len(block.plain), block.place.length)
            self._take(block.plain)
            self.reused_bytes += block.place.length
            yield block.place
        if self._pack is None:
            yield self._first()
        yield from self._fresh(pool)
        if not self._ended:  # it shrank while it was read
            yield deflate_block(b"", last=True)

    def _reused(self) -> Iterator["_Block"]:
        for block in _blocks(self._old) if self._old else ():
            if self.size + BLOCK >= self._file.size or self._file.read(self.size) != block.plain:
                return
            yield block

    def _first(self) -> bytes:
        plain = self._file.read(0)
        compressed = deflate_block(plain, last=len(plain) == self._file.size)
        self._choose(len(plain), len(compressed))
        self._take(plain)
        return compressed

    def _choose(self, plain: int, compressed: int) -> None:
        if self._pack is None:
            self._pack = copy_block if compressed > plain - plain * 3 // 100 else deflate_block

    def _take(self, plain: bytes) -> None:
        self.crc = crc32(plain, self.crc)
        self.size += len(plain)

    def _fresh(self, pool: Executor) -> Iterator[bytes]:
        assert self._pack is not None
        waiting: deque[Future[bytes]] = deque()
        while plain := self._file.read(self.size):
            self._take(plain)
            self._ended = self.size == self._file.size
            waiting.append(pool.submit(partial(self._pack, plain, last=self._ended)))
            if len(waiting) >= AT_WORK:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Block(NamedTuple):
    place: Range
    plain: bytes


def _blocks(old: OldBlocks) -> Iterator[_Block]:
    """Those that end in a SYNC_MARK after exactly BLOCK bytes: all but the last, if the file was packed by us."""
    offset = 0
    while block := _first_block(old.read(offset, _LONGEST), old.start + offset):
        yield block
        offset += block.place.length


def _first_block(data: bytes, start: int) -> _Block | None:
    """Inflated from mark to mark, since a mark may also stand within a block."""
    engine, plain, size, fed = inflater(), [], 0, 0
    for _ in range(_MOST_MARKS):
        mark = data.find(SYNC_MARK, fed)
        if mark < 0:
            return None
        end = mark + len(SYNC_MARK)
        try:
            plain.append(engine.decompress(data[fed:end], BLOCK + 1 - size))
        except CodecError:
            return None
        size, fed = size + len(plain[-1]), end
        if size == BLOCK:
            return _Block(Range(start, end), b"".join(plain))
        if size > BLOCK or engine.eof:
            return None
    return None
