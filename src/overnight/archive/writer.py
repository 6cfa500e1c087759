"""Writes a zip front to back: it never seeks, so a file, a pipe or an upload can take it."""

import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from overnight.archive import layout
from overnight.archive.codec import DEFLATED, STORED, crc32, deflate
from overnight.archive.model import Kind

_KIND_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
_DOS_DIRECTORY = 0x10

SMALLEST_DEFLATED = 64
"""Bytes below which deflate is not tried; a gain under 1/32 is not worth inflating either."""


@dataclass(frozen=True, slots=True)
class Body:
    """The content of an entry, ready to be written. `crc` and `size` are those of the plain content."""

    method: int
    crc: int
    size: int
    compressed_size: int
    chunks: Iterable[bytes]


EMPTY = Body(STORED, 0, 0, 0, ())


def stored(content: bytes) -> Body:
    return Body(STORED, crc32(content), len(content), len(content), (content,))


def squeezed(content: bytes) -> Body:
    if len(content) <= SMALLEST_DEFLATED:
        return stored(content)
    small = deflate(content)
    if len(small) > len(content) - len(content) // 32:
        return stored(content)
    return Body(DEFLATED, crc32(content), len(content), len(small), (small,))


@dataclass(frozen=True, slots=True)
class Head:
    """The name and nature of an entry. `mode` holds permission bits only."""

    name: str
    kind: Kind
    mode: int
    mtime_ns: int

    def raw_name(self) -> bytes:
        return (self.name + "/" * (self.kind is Kind.DIRECTORY)).encode()

    def flags(self) -> int:
        return 0 if self.name.isascii() else layout.FLAG_UTF8

    def attributes(self) -> int:
        dos = _DOS_DIRECTORY if self.kind is Kind.DIRECTORY else 0
        return (_KIND_BITS[self.kind] | self.mode) << 16 | dos


class ZipWriter:
    """Lengths are known before a header is written, so no entry needs a data descriptor."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._central: list[bytes] = []
        self._position = 0
        self.entries = 0
        self.directory_bytes = 0

    def add(self, head: Head, body: Body) -> None:
        offset = self._position
        self._emit(_local_record(head, body))
        for chunk in body.chunks:
            self._emit(chunk)
        self._central.append(_central_record(head, body, offset))
        self.directory_bytes += len(self._central[-1])
        self.entries += 1

    def finish(self) -> None:
        start = self._position
        for record in self._central:
            self._emit(record)
        self._emit(_end_records(self.entries, start, self._position - start))

    def _emit(self, chunk: bytes) -> None:
        self._write(chunk)
        self._position += len(chunk)


def _local_record(head: Head, body: Body) -> bytes:
    name, extra, sizes = head.raw_name(), b"", (body.compressed_size, body.size)
    if max(sizes) >= layout.FULL_32:
        # A local header carries both numbers or none (APPNOTE 4.5.3), plain size first.
        extra = layout.extra_field(layout.EXTRA_ZIP64, _quads(body.size, body.compressed_size))
        sizes = (layout.FULL_32, layout.FULL_32)
    version = layout.VERSION_ZIP64 if extra else layout.VERSION_PLAIN
    extra += layout.local_times(head.mtime_ns)
    clock = layout.dos_time(head.mtime_ns)
    record = layout.LOCAL.pack(
        layout.LOCAL_SIGNATURE,
        version,
        head.flags(),
        body.method,
        *clock,
        body.crc,
        *sizes,
        len(name),
        len(extra),
    )
    return record + name + extra


def _central_record(head: Head, body: Body, offset: int) -> bytes:
    numbers = (body.size, body.compressed_size, offset)
    long = [number for number in numbers if number >= layout.FULL_32]
    extra = layout.extra_field(layout.EXTRA_ZIP64, _quads(*long)) if long else b""
    version = layout.VERSION_ZIP64 if long else layout.VERSION_PLAIN
    extra += layout.central_times(head.mtime_ns)
    size, compressed_size, short_offset = (min(number, layout.FULL_32) for number in numbers)
    name = head.raw_name()
    record = layout.CENTRAL.pack(
        layout.CENTRAL_SIGNATURE,
        layout.UNIX << 8 | version,
        version,
        head.flags(),
        body.method,
        *layout.dos_time(head.mtime_ns),
        body.crc,
        compressed_size,
        size,
        len(name),
        len(extra),
        0,
        0,
        0,
        head.attributes(),
        short_offset,
    )
    return record + name + extra


def _end_records(entries: int, start: int, size: int) -> bytes:
    plain = layout.END.pack(
        layout.END_SIGNATURE,
        0,
        0,
        *(min(entries, layout.FULL_16),) * 2,
        min(size, layout.FULL_32),
        min(start, layout.FULL_32),
        0,
    )
    if entries < layout.FULL_16 and max(start, size) < layout.FULL_32:
        return plain
    version = layout.VERSION_ZIP64
    # 44: the length of the record behind its signature and this field.
    end64 = layout.END64.pack(
        layout.END64_SIGNATURE, 44, layout.UNIX << 8 | version, version, 0, 0, entries, entries, size, start
    )
    locator = layout.LOCATOR.pack(layout.LOCATOR_SIGNATURE, 0, start + size, 1)
    return end64 + locator + plain


def _quads(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)
