"""The records of a zip file (APPNOTE.TXT 6.3), as both the writer and the reader see them."""

import struct
import time

LOCAL = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
CENTRAL = struct.Struct("<4s6H3L5H2L")
CENTRAL_SIGNATURE = b"PK\x01\x02"
END = struct.Struct("<4s4H2LH")
END_SIGNATURE = b"PK\x05\x06"
END64 = struct.Struct("<4sQ2H2L4Q")
END64_SIGNATURE = b"PK\x06\x06"
DESCRIPTOR = struct.Struct("<4s3L")
DESCRIPTOR64 = struct.Struct("<4sLQQ")
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
LOCATOR = struct.Struct("<4sLQL")
LOCATOR_SIGNATURE = b"PK\x06\x07"

VERSION_PLAIN = 20
VERSION_ZIP64 = 45
UNIX = 3
DARWIN = 19

FLAG_DESCRIPTOR = 1 << 3
FLAG_UTF8 = 1 << 11
FLAG_DEFLATE_SPEED = 0b110
"""Two bits in which some packers note the compression level; they change nothing."""

FULL_16 = 0xFFFF
FULL_32 = 0xFFFFFFFF
"""In a plain record: the true number stands in the zip64 record."""

EXTRA_HEADER = struct.Struct("<HH")
EXTRA_ZIP64 = 0x0001
EXTRA_NTFS = 0x000A
EXTRA_TIMES = 0x5455

_NTFS = struct.Struct("<LHHQQQ")
_NTFS_FIELD = struct.Struct("<HHLHHQQQ")
_NTFS_TAG = 1
_NTFS_UNTIL_1970 = 116_444_736_000_000_000
"""100 ns steps from 1601, where NTFS begins to count, to 1970."""
_TIMES = struct.Struct("<Bl")
_TIMES_FIELD = struct.Struct("<HHBl")
_TIMES_HAS_MTIME = 1

NS = 1_000_000_000
DOS_FIRST = 315_532_800
DOS_LAST = 4_354_819_198
"""1980-01-01 and 2107-12-31 23:59:58, in seconds since 1970: the span of the DOS date."""


def extra_field(tag: int, payload: bytes) -> bytes:
    return EXTRA_HEADER.pack(tag, len(payload)) + payload


def field_of(extra: bytes, tag: int) -> bytes:
    """The first field of that tag, or b""; a torn tail, which some packers pad with, is dropped."""
    at = 0
    while at + EXTRA_HEADER.size <= len(extra):
        found, length = EXTRA_HEADER.unpack_from(extra, at)
        at += EXTRA_HEADER.size
        if at + length > len(extra):
            break
        if found == tag:
            return extra[at : at + length]
        at += length
    return b""


def dos_time(mtime_ns: int) -> tuple[int, int]:
    """(time, date), in UTC so that the packer's time zone does not show, clamped to the span of DOS."""
    moment = time.gmtime(min(max(mtime_ns // NS, DOS_FIRST), DOS_LAST))
    date = (moment.tm_year - 1980) << 9 | moment.tm_mon << 5 | moment.tm_mday
    return moment.tm_hour << 11 | moment.tm_min << 5 | moment.tm_sec // 2, date


def local_times(mtime_ns: int) -> bytes:
    """Whole seconds, which every unzip reads; left out where 32 bits do not reach."""
    seconds = mtime_ns // NS
    if not -(1 << 31) <= seconds < 1 << 31:
        return b""
    return _TIMES_FIELD.pack(EXTRA_TIMES, _TIMES.size, _TIMES_HAS_MTIME, seconds)


def ntfs_times(mtime_ns: int) -> bytes:
    """Steps of 100 ns, for the central record. Access and creation are set to the mtime: 7z shows them, and
    the archive of a tree must not depend on who last read it."""
    ticks = min(max(mtime_ns // 100 + _NTFS_UNTIL_1970, 0), (1 << 63) - 1)
    return _NTFS_FIELD.pack(EXTRA_NTFS, _NTFS.size, 0, _NTFS_TAG, 24, ticks, ticks, ticks)


def mtime_ns_of(dos_clock: int, dos_date: int, extra: bytes) -> int:
    """The most exact mtime that a central record holds, in nanoseconds since 1970."""
    ntfs = field_of(extra, EXTRA_NTFS)
    if len(ntfs) >= _NTFS.size:
        _, tag, _, ticks, _, _ = _NTFS.unpack_from(ntfs)
        if tag == _NTFS_TAG:
            return (int(ticks) - _NTFS_UNTIL_1970) * 100
    times = field_of(extra, EXTRA_TIMES)
    if len(times) >= _TIMES.size and times[0] & _TIMES_HAS_MTIME:
        return int(_TIMES.unpack_from(times)[1]) * NS
    return _ns_of_dos(dos_clock, dos_date)


def _ns_of_dos(clock: int, date: int) -> int:
    """Days are counted by hand: the fields may hold a month 0 or a 31st of February."""
    year, month, day = 1980 + (date >> 9), max(date >> 5 & 15, 1), max(date & 31, 1)
    seconds = (clock >> 11) * 3600 + (clock >> 5 & 63) * 60 + (clock & 31) * 2
    return (_days_since_1970(year, month, day) * 86_400 + seconds) * NS


def _days_since_1970(year: int, month: int, day: int) -> int:
    """Civil days by the usual March-first arithmetic; months past 12 run on into the next year."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    year -= month <= 2
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - 719_468
