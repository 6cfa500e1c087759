"""Writes a zip front to back: it never seeks, so a file, a pipe or an upload can take it."""

import hashlib
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from overnight.archive import layout
from overnight.archive.codec import DEFLATED, STORED, crc32, deflate
from overnight.archive.model import Kind, Range
from overnight.archive.output import Assembly

_KIND_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
_DOS_DIRECTORY = 0x10

SMALLEST_DEFLATED = 64
"""Bytes below which deflate is not tried; a gain under 1/32 is not worth inflating either."""
LONG_FROM = 0xF0000000
"""Content from here on gets 64-bit lengths: it may grow a little by not shrinking (facts: archive 10)."""


class Body(NamedTuple):
    """The content of an entry, ready to be written. `crc` and `size` are those of the plain content."""

    method: int
    crc: int
    size: int
    compressed_size: int
    chunks: Iterable[bytes]


EMPTY = Body(STORED, 0, 0, 0, ())


class Stream(Protocol):
    """Deflated content that is made while it is written; `crc` and `size` are true when its chunks have ended."""

    @property
    def largest(self) -> int: ...
    @property
    def crc(self) -> int: ...
    @property
    def size(self) -> int: ...


def stored(content: bytes) -> Body:
    return Body(STORED, crc32(content), len(content), len(content), (content,))


def squeezed(content: bytes) -> Body:
    size = len(content)
    if size <= SMALLEST_DEFLATED:
        return stored(content)
    small = deflate(content)
    if len(small) > size - size // 32:
        return stored(content)
    return Body(DEFLATED, crc32(content), size, len(small), (small,))


class Head(NamedTuple):
    """The name and nature of an entry. `mode` holds permission bits only.

    A name that is not UTF-8 comes as `os.fsdecode` gives it, and goes into the zip byte for byte.
    """

    name: str
    kind: Kind
    mode: int
    mtime_ns: int


class _Form(NamedTuple):
    """What both records of an entry say."""

    name: bytes
    flags: int
    clock: int
    date: int
    times: bytes


def _form_of(head: Head) -> _Form:
    name = os.fsencode(head.name)
    flags = 0 if head.name.isascii() or not _is_utf8(head.name) else layout.FLAG_UTF8
    clock, date = layout.dos_time(head.mtime_ns)
    slashed = name + b"/" if head.kind is Kind.DIRECTORY else name
    return _Form(slashed, flags, clock, date, layout.local_times(head.mtime_ns))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class ZipWriter:
    """Lengths are known before a header is written, but for streams: those get a data descriptor."""

    def __init__(self, output: Assembly) -> None:
        self._output = output
        self._central = bytearray()
        self.position = 0
        self.entries = 0

    @property
    def directory_bytes(self) -> int:
        return len(self._central)

    def add(self, head: Head, body: Body) -> None:
        form, offset = _form_of(head), self.position
        self._emit(_local_record(form, body))
        for chunk in body.chunks:
            self._emit(chunk)
        self._note(head, form, body, offset)

    def add_stream(self, head: Head, stream: Stream, chunks: Iterable[bytes | Range]) -> None:
        form, offset, long = _form_of(head), self.position, stream.largest >= LONG_FROM
        form = form._replace(flags=form.flags | layout.FLAG_DESCRIPTOR)
        self._emit(_open_local_record(form, long=long))
        start = self.position
        for chunk in chunks:
            if isinstance(chunk, Range):
                self._copy(chunk)
            else:
                self._emit(chunk)
        body = Body(DEFLATED, stream.crc, stream.size, self.position - start, ())
        self._emit(_descriptor(body, long=long))
        self._note(head, form, body, offset)

    def adopt(self, entries: Range, records: Iterable[bytes | bytearray], count: int) -> None:
        """Entries as they lie in the base, and their central records for this place."""
        self._copy(entries)
        for record in records:
            self._central += record
        self.entries += count

    def finish(self) -> str:
        """The SHA-256 of the directory and what follows it."""
        start, size = self.position, len(self._central)
        tail = bytes(self._central) + _end_records(self.entries, start, size)
        self._emit(tail)
        return hashlib.sha256(tail).hexdigest()

    def _note(self, head: Head, form: _Form, body: Body, offset: int) -> None:
        self._central += _central_record(head, form, body, offset)
        self.entries += 1

    def _emit(self, chunk: bytes) -> None:
        self._output.write(chunk)
        self.position += len(chunk)

    def _copy(self, piece: Range) -> None:
        self._output.copy(*piece)
        self.position += piece.length


def _local_record(form: _Form, body: Body) -> bytes:
    if body.size < layout.FULL_32 > body.compressed_size:
        return _packed_local(form, body.method, body.crc, body.compressed_size, body.size, b"")
    # A local header carries both numbers or none (APPNOTE 4.5.3), plain size first.
    extra = layout.extra_field(layout.EXTRA_ZIP64, _quads(body.size, body.compressed_size))
    return _packed_local(form, body.method, body.crc, layout.FULL_32, layout.FULL_32, extra)


def _open_local_record(form: _Form, *, long: bool) -> bytes:
    """For content whose lengths and checksum stand behind it."""
    if not long:
        return _packed_local(form, DEFLATED, 0, 0, 0, b"")
    extra = layout.extra_field(layout.EXTRA_ZIP64, _quads(0, 0))
    return _packed_local(form, DEFLATED, 0, layout.FULL_32, layout.FULL_32, extra)


def _packed_local(form: _Form, method: int, crc: int, compressed: int, size: int, extra: bytes) -> bytes:
    name, flags, clock, date, times = form
    version = layout.VERSION_ZIP64 if extra else layout.VERSION_PLAIN
    extra += times
    record = layout.LOCAL.pack(
        layout.LOCAL_SIGNATURE,
        version,
        flags,
        method,
        clock,
        date,
        crc,
        compressed,
        size,
        len(name),
        len(extra),
    )
    return record + name + extra


def _descriptor(body: Body, *, long: bool) -> bytes:
    form = layout.DESCRIPTOR64 if long else layout.DESCRIPTOR
    return form.pack(layout.DESCRIPTOR_SIGNATURE, body.crc, body.compressed_size, body.size)


def _central_record(head: Head, form: _Form, body: Body, offset: int) -> bytes:
    name, flags, clock, date, times = form
    _, crc, size, compressed, _ = body
    extra, version = b"", layout.VERSION_PLAIN
    if size >= layout.FULL_32 or compressed >= layout.FULL_32 or offset >= layout.FULL_32:
        long = [number for number in (size, compressed, offset) if number >= layout.FULL_32]
        extra, version = layout.extra_field(layout.EXTRA_ZIP64, _quads(*long)), layout.VERSION_ZIP64
        size, compressed, offset = (min(number, layout.FULL_32) for number in (size, compressed, offset))
    extra += layout.ntfs_times(head.mtime_ns) + times
    record = layout.CENTRAL.pack(
        layout.CENTRAL_SIGNATURE,
        layout.UNIX << 8 | version,
        version,
        flags,
        body.method,
        clock,
        date,
        crc,
        compressed,
        size,
        len(name),
        len(extra),
        0,
        0,
        0,
        (_KIND_BITS[head.kind] | head.mode) << 16 | (_DOS_DIRECTORY if name.endswith(b"/") else 0),
        offset,
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
