"""Where the bytes of an archive go: into a file or stream, hashed on the way, or to one who has its base already."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import BinaryIO, Protocol, Self, runtime_checkable

from overnight.archive.model import MIB, ArchiveRefused, Range, Refusal

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
    """A file without a buffer may take less than it is given, as one does whose disk is about to be full."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            taken: int | None = self._file.write(view)
            view = view[len(view) if taken is None else taken :]  # file-likes that return nothing take all
        self._file.flush()


@runtime_checkable
class Assembly(Protocol):
    """One who puts an archive together where its base lies, as an object store does that copies ranges.

    Called in the order of the archive. Only what is new is written.
    """

    def write(self, data: bytes, /) -> object: ...

    def copy(self, offset: int, length: int, /) -> object:
        """Bytes of the base, as it was given to `pack`."""
        ...


class Output(Assembly, Protocol):
    """Both calls raise ArchiveRefused over a limit of bytes, and may raise what an earlier one ended with."""

    def finish(self) -> str | None:
        """All has arrived. The SHA-256 of it, or None if not every byte was seen."""
        ...


class Delta:
    """An Assembly that keeps what it is told: new bytes, and ranges of the base. Neighbours are joined."""

    def __init__(self) -> None:
        self._pieces: list[bytes | Range] = []
        self._new: list[bytes] = []

    @property
    def pieces(self) -> Sequence[bytes | Range]:
        """In the order of the archive."""
        self._join()
        return self._pieces

    def write(self, data: bytes, /) -> None:
        self._new.append(data)

    def copy(self, offset: int, length: int, /) -> None:
        self._join()
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Range) and last.offset + last.length == offset:
            self._pieces[-1] = Range(last.offset, last.length + length)
        else:
            self._pieces.append(Range(offset, length))

    def write_to(self, target: BinaryIO, base: BinaryIO) -> None:
        """Puts the archive together. Raises EOFError if the base is shorter than it was."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                target.write(piece)
                continue
            base.seek(piece.offset)
            for start in range(0, piece.length, BATCH):
                length = min(BATCH, piece.length - start)
                data = base.read(length)
                if len(data) < length:
                    raise EOFError("The base is shorter than it was when the archive was packed upon it.")
                target.write(data)

    def _join(self) -> None:
        if self._new:
            self._pieces.append(b"".join(self._new))
            self._new = []


class AssemblyOutput:
    """Nothing is hashed: most of the bytes are not seen here."""

    def __init__(self, assembly: Assembly, limit: int) -> None:
        self._assembly = assembly
        self._budget = _Budget(limit)

    def write(self, data: bytes, /) -> None:
        self._budget.take(len(data))
        self._assembly.write(data)

    def copy(self, offset: int, length: int, /) -> None:
        self._budget.take(length)
        self._assembly.copy(offset, length)

    def finish(self) -> None:
        return None


class _Budget:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def take(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise too_large("bytes in the archive", self._limit)


class HashedOutput:
    """Hashes and writes in a thread of its own. `read(offset, length)` gives a piece of the base, until `finish`.

    `wrote` is told, in that thread, how many bytes have reached the sink in all.
    """

    def __init__(
        self,
        sink: Sink,
        limit: int,
        read: Callable[[int, int], bytes],
        wrote: Callable[[int], None] | None = None,
    ) -> None:
        self._sink = sink
        self._budget = _Budget(limit)
        self._read = read
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

    def write(self, data: bytes, /) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= BATCH:
            self._hand_over()

    def copy(self, offset: int, length: int, /) -> None:
        self._hand_over()
        self._budget.take(length)
        self._enqueue(partial(self._copy, offset, offset + length))

    def finish(self) -> str:
        self._hand_over()
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.hexdigest()

    def _hand_over(self) -> None:
        if self._held:
            self._budget.take(self._held_bytes)
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

    def _copy(self, offset: int, end: int) -> None:
        """The bytes are read for their hash anyway: a copy inside the kernel takes a tenth longer (decision 51)."""
        for start in range(offset, end, BATCH):
            self._put(self._read(start, min(BATCH, end - start)))


def too_large(what: str, limit: int) -> ArchiveRefused:
    return ArchiveRefused(
        Refusal.TOO_LARGE,
        f"The workspace does not fit into an archive: more than {limit} {what}. Nothing was stored.",
    )
