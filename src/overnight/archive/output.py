"""Takes the bytes of an archive to where they go, in a thread of its own: there they are hashed and written."""

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from overnight.archive.model import MIB, ArchiveRefused, Refusal

BATCH = MIB
WAITING = 4
"""Batches handed over and not yet written. More would only cost memory (facts: archive 3)."""


class Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> object: ...


class FileSink:
    """Without a buffer between: what was written can be read from the file at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


class StreamSink:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes | memoryview, /) -> None:
        self._file.write(data)
        self._file.flush()


class Output:
    """`wrote` is told, in that thread, how many bytes have reached the sink in all.

    Raises ArchiveRefused over `limit` bytes; a write may raise what an earlier one ended with.
    """

    def __init__(self, sink: Sink, limit: int, wrote: Callable[[int], None] | None = None) -> None:
        self._sink = sink
        self._left = limit
        self._limit = limit
        self._wrote = wrote
        self._thread = ThreadPoolExecutor(1, "pack-output")
        self._waiting: deque[Future[None]] = deque()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sha256 = hashlib.sha256()
        self._written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def write(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes >= BATCH:
            self._hand_over()

    def copy(self, read: Callable[[int, int], bytes], offset: int, length: int) -> None:
        """A range of another file; `read(offset, length)` gives all of it, until `finish`."""
        self._hand_over()
        self._take(length)
        self._enqueue(partial(self._copy, read, offset, offset + length))

    def finish(self) -> str:
        """The SHA-256 of all; everything has reached the sink."""
        self._hand_over()
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.hexdigest()

    def _take(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise too_large("bytes in the archive", self._limit)

    def _hand_over(self) -> None:
        if self._held:
            self._take(self._held_bytes)
            self._enqueue(partial(self._put, b"".join(self._held)))
            self._held, self._held_bytes = [], 0

    def _enqueue(self, work: Callable[[], None]) -> None:
        self._waiting.append(self._thread.submit(work))
        if len(self._waiting) > WAITING:
            self._waiting.popleft().result()

    def _put(self, data: bytes) -> None:
        self._sha256.update(data)
        self._sink.write(data)
        self._written += len(data)
        if self._wrote:
            self._wrote(self._written)

    def _copy(self, read: Callable[[int, int], bytes], offset: int, end: int) -> None:
        """The bytes are read for their hash anyway, so a copy inside the kernel would save nothing."""
        for start in range(offset, end, BATCH):
            self._put(read(start, min(BATCH, end - start)))


def too_large(what: str, limit: int) -> ArchiveRefused:
    return ArchiveRefused(
        Refusal.TOO_LARGE,
        f"The workspace does not fit into an archive: more than {limit} {what}. Nothing was stored.",
    )
