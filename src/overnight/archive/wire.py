"""What the two processes of a pack or a restore say to each other: rows of numbers, with bytes behind them.

Each comes from this program itself, so what arrives is taken as it is.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import chain

from overnight.archive.model import ArchiveRefused, Kind, Omission, Refusal
from overnight.archive.reader import Record
from overnight.archive.record import STATUS_BYTES
from overnight.archive.source import Read
from overnight.archive.spans import Span
from overnight.archive.walk import Node
from overnight.archive.writer import Body, Head

_COUNT = struct.Struct("<I")
_READ = struct.Struct(f"<BBHIqLQQ{STATUS_BYTES}s")
"""Code, steadiness, method, mode, mtime, CRC, size, compressed size, status as recorded."""
_FILE, _LINK, _IS_LEFT, _FIRST_OMISSION = range(4)
_READ_AS = {_FILE: Kind.FILE, _LINK: Kind.SYMLINK}
_OMISSIONS = tuple(Omission)
_NOT_READ = (0, 0, 0, 0, 0, 0, 0, b"")

_SPAN = struct.Struct("<QQQQLIHHHHH")
"""Start, number, size, compressed size, CRC, mode, method, time, date, lengths of name and extra field."""

DIALECT = " ".join(form.format for form in (_COUNT, _READ, _SPAN))
"""An upgrade in place may have put a newer program where ours was: then the two do not talk."""

_KINDS = {b"f": Kind.FILE, b"l": Kind.SYMLINK}
_LETTERS = {kind: letter for letter, kind in _KINDS.items()}

Place = tuple[bytes, Kind]
Reading = Read | Omission | None
"""None: it is left to the one who asked."""


def places_to(nodes: Sequence[Node]) -> bytes:
    """Of files and links: their paths in the archive."""
    return b"\0".join(_LETTERS[node.kind] + node.path for node in nodes)


def places_from(message: bytes) -> list[Place]:
    return [(place[1:], _KINDS[place[:1]]) for place in message.split(b"\0")]


def readings_to(readings: Sequence[Reading]) -> bytes:
    """Raises struct.error for a time that no file should have (beyond 2262)."""
    rows = map(_row, readings)
    bodies = chain.from_iterable(read.body.chunks for read in readings if isinstance(read, Read))
    return b"".join((_COUNT.pack(len(readings)), *rows, *bodies))


def _row(reading: Reading) -> bytes:
    if reading is None:
        return _READ.pack(_IS_LEFT, *_NOT_READ)
    if isinstance(reading, Omission):
        return _READ.pack(_FIRST_OMISSION + _OMISSIONS.index(reading), *_NOT_READ)
    head, (method, crc, size, compressed_size, _), steady, status = reading
    code = _FILE if head.kind is Kind.FILE else _LINK
    return _READ.pack(code, steady, method, head.mode, head.mtime_ns, crc, size, compressed_size, status)


def readings_from(message: bytes, nodes: Sequence[Node]) -> list[Reading]:
    """One for each of the nodes, as far as it goes."""
    (count,) = _COUNT.unpack_from(message)
    body_at = _COUNT.size + count * _READ.size
    readings: list[Reading] = []
    rows = _READ.iter_unpack(message[_COUNT.size : body_at])
    for node, row in zip(nodes, rows, strict=False):
        code, steady, method, mode, mtime_ns, crc, size, compressed_size, status = row
        if code in _READ_AS:  # of what the walk saw, it may have become the other
            body_end = body_at + compressed_size
            body = Body(method, crc, size, compressed_size, (message[body_at:body_end],))
            readings.append(Read(Head(node.name, _READ_AS[code], mode, mtime_ns), body, bool(steady), status))
            body_at = body_end
        else:
            readings.append(None if code == _IS_LEFT else _OMISSIONS[code - _FIRST_OMISSION])
    return readings


def spans_to(batch: Sequence[Span]) -> bytes:
    """Of files, as they were judged."""
    return b"".join(chain.from_iterable(map(_span_pieces, batch)))


def _span_pieces(span: Span) -> tuple[bytes, bytes, bytes]:
    record, start = span
    name = os.fsencode(record.name)
    row = _SPAN.pack(
        start,
        record.number,
        record.size,
        record.compressed_size,
        record.crc,
        record.mode,
        record.method,
        record.dos_clock,
        record.dos_date,
        len(name),
        len(record.extra),
    )
    return row, name, record.extra


def spans_from(message: bytes) -> list[Span]:
    return list(_spans(message))


def _spans(message: bytes) -> Iterator[Span]:
    at = 0
    while at < len(message):
        start, number, size, compressed, crc, mode, method, clock, date, name_length, extra_length = (
            _SPAN.unpack_from(message, at)
        )
        name_at = at + _SPAN.size
        extra_at = name_at + name_length
        at = extra_at + extra_length
        raw_name, extra = message[name_at:extra_at], message[extra_at:at]
        yield Span(
            Record(
                number,
                os.fsdecode(raw_name),
                Kind.FILE,
                mode,
                size,
                compressed,
                0,
                crc,
                method,
                0,
                raw_name,
                clock,
                date,
                extra,
            ),
            start,
        )


_DONE, _REFUSED, _FAILED = b"d", b"r", b"f"
"""How a message on what was written begins."""


def written_to(statuses: Sequence[bytes]) -> bytes:
    return _DONE + b"".join(statuses)


def trouble_to(error: ArchiveRefused | OSError) -> bytes:
    if isinstance(error, ArchiveRefused):
        return _REFUSED + f"{error.reason_code}\0{error}".encode()
    return _FAILED + f"{error.errno or 0}\0{error.strerror or error}".encode(errors="backslashreplace")


def written_from(message: bytes) -> list[bytes]:
    """The statuses of what was written. Raises what went wrong there: ArchiveRefused or OSError."""
    outcome, rest = message[:1], message[1:]
    if outcome == _DONE:
        return [rest[at : at + STATUS_BYTES] for at in range(0, len(rest), STATUS_BYTES)]
    code, _, text = rest.decode().partition("\0")
    raise ArchiveRefused(Refusal(code), text) if outcome == _REFUSED else OSError(int(code), text)
