"""Raw deflate and CRC-32. The only file that knows the engine: a faster one replaces its inside."""

import zlib
from typing import Protocol

STORED = 0
DEFLATED = 8

LEVEL = 1
"""Three times the speed of level 6 for a quarter more bytes on source code (facts: archive 2)."""

RAW = -15
"""zlib's window argument for a stream without header and trailer, as zip wants it."""

CodecError = zlib.error


class Deflater(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Inflater(Protocol):
    """`decompress` returns at most `max_length` bytes and keeps the rest in `unconsumed_tail`."""

    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def crc32(content: bytes | memoryview, start: int = 0) -> int:
    return zlib.crc32(content, start)


def deflate(content: bytes) -> bytes:
    return zlib.compress(content, LEVEL, wbits=RAW)


def deflater() -> Deflater:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, RAW)


def inflater() -> Inflater:
    return zlib.decompressobj(RAW)
