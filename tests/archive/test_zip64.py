"""Many entries and large offsets: the zip64 records, written and read."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from overnight.archive import Kind, Part, inspect, pack, unpack
from overnight.archive.writer import EMPTY, Body, Head, ZipWriter, squeezed

MIB = 1 << 20
ZEROS = bytes(MIB)


class Straight:
    """Into a file, and without a base."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, chunk: bytes, /) -> None:
        self.file.write(chunk)

    def copy(self, offset: int, length: int, /) -> None:
        raise AssertionError("there is no base")


def test_more_entries_than_16_bits_count(tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as file:
        writer = ZipWriter(Straight(file))
        for number in range(66_000):
            writer.add(Head(str(number), Kind.DIRECTORY, 0o755, 0), EMPTY)
        writer.finish()
    assert len(inspect(tmp_path / "a.zip").entries) == 66_000
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.infolist()) == 66_000


class Holes(Straight):
    """Blocks of zeros become holes, so that 5 GiB cost nothing."""

    def write(self, chunk: bytes, /) -> None:
        if chunk is ZEROS:
            self.file.seek(len(chunk), 1)
        else:
            self.file.write(chunk)


def zeros(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield ZEROS


def test_sizes_and_offsets_over_4_gib(tmp_path: Path) -> None:
    size = 5 << 30
    with (tmp_path / "a.zip").open("wb") as file:
        writer = ZipWriter(Holes(file))
        writer.add(Head("hole", Kind.FILE, 0o644, 0), Body(0, 0, size, size, zeros(size >> 20)))
        writer.add(Head("behind", Kind.FILE, 0o644, 0), squeezed(b"behind"))
        writer.finish()
    entries = inspect(tmp_path / "a.zip").entries
    assert [(entry.name, entry.size) for entry in entries] == [("hole", size), ("behind", 6)]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.getinfo("hole").file_size == size
        assert archive.read("behind") == b"behind"


def test_more_files_than_16_bits_count_are_restored(tmp_path: Path) -> None:
    """70,000 of them, each with content of its own, in 100 directories without entries."""
    contents = {f"d{number % 100}/{number}": b"%d" % number for number in range(70_000)}
    with (tmp_path / "a.zip").open("wb") as file:
        writer = ZipWriter(Straight(file))
        for name in sorted(contents):
            writer.add(Head(name, Kind.FILE, 0o644, 0), squeezed(contents[name]))
        writer.finish()
    assert unpack(tmp_path / "a.zip", {"": tmp_path / "out"}).entries == 70_000
    found = {
        f"{directory.name}/{file.name}": Path(file.path).read_bytes()
        for directory in os.scandir(tmp_path / "out")
        for file in os.scandir(directory.path)
    }
    assert found == contents


def test_a_file_of_more_than_4_gib_comes_back(tmp_path: Path) -> None:
    """A hole with a few bytes before, at and behind the edge of 32 bits; it is packed, and restored in full."""
    marks = {0: b"first", (4 << 30) - 2: b"edge", (4 << 30) + 5 * MIB: b"last"}
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("needs 6 GiB of disk for a moment")
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "large").open("wb") as file:
        for at, mark in marks.items():
            file.seek(at)
            file.write(mark)
    (tmp_path / "tree" / "small").write_bytes(b"behind")
    packed = pack([Part(tmp_path / "tree", "")], tmp_path / "a.zip")
    try:
        assert unpack(tmp_path / "a.zip", {"": tmp_path / "out"}).content_bytes == packed.content_bytes
        with (tmp_path / "out" / "large").open("rb") as large:
            assert os.fstat(large.fileno()).st_size == max(marks) + len(b"last")
            for at, mark in marks.items():
                assert os.pread(large.fileno(), len(mark), at) == mark
        assert (tmp_path / "out" / "small").read_bytes() == b"behind"
    finally:
        (tmp_path / "out" / "large").unlink(missing_ok=True)
