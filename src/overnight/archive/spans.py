"""Where each entry lies in the file, and its content, with real counters."""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from overnight.archive import layout
from overnight.archive.codec import STORED, CodecError, crc32, inflate, inflater
from overnight.archive.model import KIB
from overnight.archive.reader import ArchiveFile, Directory, Record, Window, damaged

STEP = 256 * KIB
"""Bytes read and inflated at a time."""

WHOLE = 512 * KIB
"""Content up to this size is inflated in one call."""

_AHEAD = 32 * KIB
"""Read with a local header: those of small entries that follow come along."""

_STRETCH = 1 << 20
_NEIGHBOURS = 128
"""A batch lies within so many bytes, and holds so many entries at most."""

_DESCRIPTORS = frozenset({12, 16, 20, 24})
"""Lengths of a data descriptor: with or without signature, with 32-bit or 64-bit numbers."""


class Span(NamedTuple):
    """A record together with the place of its (compressed) content."""

    record: Record
    start: int


def spans(archive: ArchiveFile, directory: Directory) -> list[Span]:
    """In the order of the file. Entries must lie edge to edge from its first byte to the directory.

    So none can share bytes with another (the way to a bomb of any size), and nothing can hide between them.
    """
    records = sorted(directory.records, key=attrgetter("header_offset"))
    edges = [record.header_offset for record in records] + [directory.start]
    if edges[0] != 0:
        raise damaged("bytes lie before its first entry")
    headers = Window(archive, _AHEAD)
    return [_span(headers, record, edge) for record, edge in zip(records, edges[1:], strict=True)]


def span_of(archive: ArchiveFile, record: Record, edge: int) -> Span:
    """Where one entry lies, whose bytes end at `edge`; only they are read. Raises ArchiveRefused."""
    return _span(Window(archive, _AHEAD), record, edge)


def _span(headers: Window, record: Record, edge: int) -> Span:
    header_end = record.header_offset + layout.LOCAL.size
    if header_end > edge:
        raise damaged(f"entry {record.number} overlaps another")
    header = headers.read(record.header_offset, layout.LOCAL.size + len(record.raw_name))
    signature, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = (
        layout.LOCAL.unpack_from(header)
    )
    start = header_end + name_length + extra_length
    rest = edge - start - record.compressed_size
    if rest < 0:
        raise damaged(f"entry {record.number} overlaps another")
    described = bool(flags & layout.FLAG_DESCRIPTOR)
    if (rest not in _DESCRIPTORS) if described else (rest != 0):
        raise damaged(f"bytes that belong to no entry follow entry {record.number}")
    agree = described or _agree(record, crc, (compressed, size))
    if signature != layout.LOCAL_SIGNATURE or method != record.method or not agree:
        raise damaged(f"entry {record.number} and its header disagree")
    if name_length != len(record.raw_name) or not header.endswith(record.raw_name):
        raise damaged(f"entry {record.number} has two names")
    return Span(record, start)


def _agree(record: Record, crc: int, sizes: tuple[int, int]) -> bool:
    if crc != record.crc:
        return False
    true = (record.compressed_size, record.size)
    return sizes == true or all(
        short in {long, layout.FULL_32} for short, long in zip(sizes, true, strict=True)
    )


def batches(placed: Iterable[Span]) -> Iterator[list[Span]]:
    """In the same order: small entries near each other, which one read brings in, and large ones alone."""
    batch: list[Span] = []
    for span in placed:
        record, start = span
        small = is_small(record)
        end = start + record.compressed_size
        if batch and not (small and end - batch[0].start <= _STRETCH and len(batch) < _NEIGHBOURS):
            yield batch
            batch = []
        batch.append(span)
        if not small:
            yield batch
            batch = []
    if batch:
        yield batch


def contents(archive: ArchiveFile, batch: list[Span]) -> Iterator[tuple[Record, Iterable[bytes]]]:
    """The plain bytes of each entry of a batch, to be used up before the next; raises as `content` does."""
    first, last = batch[0].start, batch[-1]
    if not is_small(last.record):
        yield last.record, content(archive, last)
        return
    block = archive.read(first, last.start + last.record.compressed_size - first)
    for record, start in batch:
        yield record, (whole(record, block[start - first : start - first + record.compressed_size]),)


def content(archive: ArchiveFile, span: Span) -> Iterator[bytes]:
    """The plain bytes, never more than the directory declares; raises ArchiveRefused at the first lie."""
    record = span.record
    if is_small(record):
        yield whole(record, archive.read(span.start, record.compressed_size))
        return
    pieces = _stored(archive, span) if record.method == STORED else _inflated(archive, span)
    size = crc = 0
    for piece in pieces:
        size += len(piece)
        _check_size(record, size, at_end=False)
        crc = crc32(piece, crc)
        yield piece
    _check_size(record, size, at_end=True)
    _check_crc(record, crc)


def is_small(record: Record) -> bool:
    return record.size <= WHOLE and record.compressed_size <= WHOLE


def whole(record: Record, data: bytes) -> bytes:
    """The plain bytes of a small entry, all at once; raises ArchiveRefused."""
    plain = data if record.method == STORED else _inflated_whole(record, data)
    _check_size(record, len(plain), at_end=True)
    _check_crc(record, crc32(plain))
    return plain


def _inflated_whole(record: Record, data: bytes) -> bytes:
    try:
        return inflate(data, record.size)
    except CodecError:
        raise damaged(f"entry {record.number} cannot be inflated") from None


def _check_size(record: Record, size: int, *, at_end: bool) -> None:
    if size > record.size:
        raise damaged(f"entry {record.number} is larger than it says")
    if at_end and size < record.size:
        raise damaged(f"entry {record.number} is smaller than it says")


def _check_crc(record: Record, crc: int) -> None:
    if crc != record.crc:
        raise damaged(f"entry {record.number} does not match its checksum")


def _stored(archive: ArchiveFile, span: Span) -> Iterator[bytes]:
    end = span.start + span.record.compressed_size
    for offset in range(span.start, end, STEP):
        yield archive.read(offset, min(STEP, end - offset))


def _inflated(archive: ArchiveFile, span: Span) -> Iterator[bytes]:
    """Raises ArchiveRefused also when the stream stops before, or goes on after, its declared end."""
    engine = inflater()
    try:
        for piece in _stored(archive, span):
            pending = piece
            while pending and not engine.eof:
                yield engine.decompress(pending, STEP)
                pending = engine.unconsumed_tail
            if engine.unused_data or (engine.eof and pending):
                raise damaged(f"bytes follow the content of entry {span.record.number}")
        while not engine.eof:
            rest = engine.decompress(b"", STEP)
            if not rest and not engine.eof:
                raise damaged(f"the content of entry {span.record.number} ends too early")
            yield rest
    except CodecError:
        raise damaged(f"entry {span.record.number} cannot be inflated") from None
