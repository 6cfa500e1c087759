"""isal and zlib read what the other wrote, so a worker without isal can go on with any session."""

import os
from itertools import permutations

import pytest

from overnight.archive import codec
from overnight.archive.codec import Engine, copy_block, isal_engine, zlib_engine

CONTENTS = [b"", b"x", b"text " * 10_000, os.urandom(200_000)]
ISAL = isal_engine()
ENGINES = [zlib_engine(), *([ISAL] if ISAL else [])]
PAIRS = list(permutations(ENGINES, 2))


def name_of(engine: Engine) -> str:
    return engine.name.split()[0]


def inflated(engine: Engine, data: bytes) -> bytes:
    inflater = engine.inflater()
    return inflater.decompress(data, 1 << 20)


def test_isal_is_what_is_used_where_it_is() -> None:
    assert codec.ENGINE.name.startswith("isal ")
    assert len(PAIRS) == 2


@pytest.mark.parametrize(("writer", "reader"), PAIRS, ids=name_of)
@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_each_reads_the_other(writer: Engine, reader: Engine, content: bytes) -> None:
    assert inflated(reader, writer.deflate(content)) == content
    assert reader.crc32(content, 0) == writer.crc32(content, 0)


@pytest.mark.parametrize("reader", ENGINES, ids=name_of)
def test_stored_blocks_are_deflate(reader: Engine) -> None:
    joined = b"".join(copy_block(content, last=False) for content in CONTENTS) + copy_block(b"end", last=True)
    assert inflated(reader, joined) == b"".join(CONTENTS) + b"end"


@pytest.mark.parametrize("engine", ENGINES, ids=name_of)
def test_what_is_no_deflate_is_its_error(engine: Engine) -> None:
    with pytest.raises(engine.error):
        inflated(engine, b"\xff" * 100)
