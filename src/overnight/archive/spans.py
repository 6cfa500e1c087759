"""Where each entry lies in the file, and its content, with real counters."""

from collections.abc import Iterator
from dataclasses import dataclass

from overnight.archive import layout
from overnight.archive.codec import STORED, CodecError, crc32, inflater
from overnight.archive.model import KIB
from overnight.archive.reader import ArchiveFile, Directory, Record, damaged

STEP = 256 * KIB
"""Bytes read and inflated at a time."""

_DESCRIPTORS = frozenset({12, 16, 20, 24})
"""Lengths of a data descriptor: with or without signature, with 32-bit or 64-bit numbers."""


@dataclass(frozen=True, slots=True)
class Span:
    """A record together with the place of its (compressed) content."""

    record: Record
    start: int


def spans(archive: ArchiveFile, directory: Directory) -> list[Span]:
    """In the order of the file. Entries must lie edge to edge from its first byte to the directory.

    So none can share bytes with another (the way to a bomb of any size), and nothing can hide between them.
    """
    records = sorted(directory.records, key=lambda record: record.header_offset)
    edges = [record.header_offset for record in records] + [directory.start]
    if edges[0] != 0:
        raise damaged("bytes lie before its first entry")
    return [_span(archive, record, edge) for record, edge in zip(records, edges[1:], strict=True)]


def _span(archive: ArchiveFile, record: Record, edge: int) -> Span:
    header_end = record.header_offset + layout.LOCAL.size
    if header_end > edge:
        raise damaged(f"entry {record.number} overlaps another")
    fields = layout.LOCAL.unpack(archive.read(record.header_offset, layout.LOCAL.size))
    signature, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = fields
    start = header_end + name_length + extra_length
    rest = edge - start - record.compressed_size
    if rest < 0:
        raise damaged(f"entry {record.number} overlaps another")
    described = bool(flags & layout.FLAG_DESCRIPTOR)
    if (rest not in _DESCRIPTORS) if described else (rest != 0):
        raise damaged(f"bytes that belong to no entry follow entry {record.number}")
    numbers = ((crc, record.crc), (compressed, record.compressed_size), (size, record.entry.size))
    if signature != layout.LOCAL_SIGNATURE or method != record.method or not (described or _same(numbers)):
        raise damaged(f"entry {record.number} and its header disagree")
    if archive.read(header_end, name_length) != record.raw_name:
        raise damaged(f"entry {record.number} has two names")
    return Span(record, start)


def _same(numbers: tuple[tuple[int, int], ...]) -> bool:
    (crc, true_crc), *sizes = numbers
    return crc == true_crc and all(short in {true, layout.FULL_32} for short, true in sizes)


def content(archive: ArchiveFile, span: Span) -> Iterator[bytes]:
    """The plain bytes, never more than the directory declares; raises ArchiveRefused at the first lie."""
    record = span.record
    pieces = _stored(archive, span) if record.method == STORED else _inflated(archive, span)
    size = crc = 0
    for piece in pieces:
        size += len(piece)
        if size > record.entry.size:
            raise damaged(f"entry {record.number} is larger than it says")
        crc = crc32(piece, crc)
        yield piece
    if size != record.entry.size:
        raise damaged(f"entry {record.number} is smaller than it says")
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
