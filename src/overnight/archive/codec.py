"""Raw deflate and CRC-32. The only file that knows the engine: isal, or the standard library's zlib without it."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

STORED = 0
DEFLATED = 8

LEVEL = 1
"""isal at level 1 is four times as fast as zlib at level 6 and makes 1.16 times its bytes (facts: archive 2)."""

RAW = -15
"""zlib's window argument for a stream without header and trailer, as zip wants it."""

SYNC_MARK = b"\x00\x00\xff\xff"
"""What a sync flush ends with: an empty stored block, at an edge of a byte."""

Data = bytes | bytearray | memoryview


class Deflater(Protocol):
    def compress(self, data: Data, /) -> bytes: ...
    def flush(self, mode: int = ..., /) -> bytes: ...


class Inflater(Protocol):
    """`decompress` returns at most `max_length` bytes and keeps the rest in `unconsumed_tail`."""

    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """`name` is for people; `error` is what its inflater raises."""

    name: str
    error: type[Exception]
    crc32: Callable[[Data, int], int]
    deflate: Callable[[Data], bytes]
    deflater: Callable[[], Deflater]
    inflater: Callable[[], Inflater]


def isal_engine() -> Engine | None:
    """None where isal is not installed: it has no wheel for every machine."""
    try:
        import isal  # noqa: PLC0415 - may be missing
        from isal import igzip_lib, isal_zlib  # noqa: PLC0415 - may be missing
    except ImportError:
        return None
    return Engine(
        name=f"isal {isal.__version__}",
        error=isal_zlib.IsalError,  # type: ignore[arg-type]  # its stub takes the class for an instance
        crc32=isal_zlib.crc32,
        deflate=lambda content: igzip_lib.compress(content, LEVEL, igzip_lib.COMP_DEFLATE),
        deflater=lambda: isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, RAW),
        inflater=lambda: isal_zlib.decompressobj(RAW),
    )


def zlib_engine() -> Engine:
    return Engine(
        name=f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        error=zlib.error,
        crc32=zlib.crc32,
        deflate=lambda content: zlib.compress(content, LEVEL, RAW),
        deflater=lambda: zlib.compressobj(LEVEL, zlib.DEFLATED, RAW),
        inflater=lambda: zlib.decompressobj(RAW),
    )


ENGINE = isal_engine() or zlib_engine()
CodecError = ENGINE.error


def crc32(content: Data, start: int = 0) -> int:
    return ENGINE.crc32(content, start)


def deflate(content: Data) -> bytes:
    return ENGINE.deflate(content)


def inflater() -> Inflater:
    return ENGINE.inflater()


def inflate(data: bytes, size: int) -> bytes:
    """A whole stream at once, cut at `size` + 1 bytes. Raises CodecError, also if it ends elsewhere than `data`."""
    engine = ENGINE.inflater()
    plain = engine.decompress(data, size + 1)
    if len(plain) <= size and (engine.unused_data or not engine.eof):
        raise CodecError("the stream does not end where it should")
    return plain


def deflate_block(block: Data, *, last: bool) -> bytes:
    """A piece of a stream that needs no other piece; all but the last end in a SYNC_MARK."""
    engine = ENGINE.deflater()
    return engine.compress(block) + engine.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


_STORED_HEAD = struct.Struct("<BHH")
_STORED_MOST = 0xFFFF


def copy_block(block: Data, *, last: bool) -> bytes:
    """The same for content that does not shrink: stored blocks of deflate (RFC 1951, 3.2.4)."""
    view = memoryview(block)
    pieces: list[Data] = []
    for at in range(0, max(len(view), 1), _STORED_MOST):
        piece = view[at : at + _STORED_MOST]
        final = last and at + _STORED_MOST >= len(view)
        pieces += (_STORED_HEAD.pack(final, len(piece), len(piece) ^ _STORED_MOST), piece)
    return b"".join(pieces) + (b"" if last else b"\0" + SYNC_MARK)
