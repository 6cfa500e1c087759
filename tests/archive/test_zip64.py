"""Many entries and large offsets: the zip64 records, written and read."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from overnight.archive import Kind, inspect
from overnight.archive.writer import EMPTY, Body, Head, ZipWriter, squeezed

ZEROS = bytes(1 << 20)


def test_more_entries_than_16_bits_count(tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as file:
        writer = ZipWriter(file.write)
        for number in range(66_000):
            writer.add(Head(str(number), Kind.DIRECTORY, 0o755, 0), EMPTY)
        writer.finish()
    assert len(inspect(tmp_path / "a.zip").entries) == 66_000
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.infolist()) == 66_000


class Holes:
    """A file in which blocks of zeros become holes, so that 5 GiB cost nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, chunk: bytes) -> None:
        if chunk is ZEROS:
            self._file.seek(len(chunk), 1)
        else:
            self._file.write(chunk)


def zeros(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield ZEROS


def test_sizes_and_offsets_over_4_gib(tmp_path: Path) -> None:
    size = 5 << 30
    with (tmp_path / "a.zip").open("wb") as file:
        writer = ZipWriter(Holes(file).write)
        writer.add(Head("hole", Kind.FILE, 0o644, 0), Body(0, 0, size, size, zeros(size >> 20)))
        writer.add(Head("behind", Kind.FILE, 0o644, 0), squeezed(b"behind"))
        writer.finish()
    entries = inspect(tmp_path / "a.zip").entries
    assert [(entry.name, entry.size) for entry in entries] == [("hole", size), ("behind", 6)]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.getinfo("hole").file_size == size
        assert archive.read("behind") == b"behind"
