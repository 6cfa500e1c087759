"""A restore in two threads: the same tree, the same record, the same refusal."""

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from overnight.archive import OWN, ArchiveRefused, Part, pack, unchanged, unpack
from overnight.archive.judge import judge
from overnight.archive.reader import open_archive

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories that forbid writing and one of 600 files, links between them, and a file that is read in pieces."""
    draw = random.Random(3)
    for number in range(800):
        directory = tmp_path / "tree" / ("many" if number % 4 else f"d{number % 50}/e{number % 3}")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.txt").write_bytes(draw.randbytes(draw.randrange(2_000)))
    (tmp_path / "tree" / "many" / "large").write_bytes(draw.randbytes(3 << 20))
    (tmp_path / "tree" / "z").mkdir()
    (tmp_path / "tree" / "z" / "1999.txt").write_bytes(draw.randbytes(2_000))
    (tmp_path / "tree" / "d0" / "link").symlink_to("../many/large")
    (tmp_path / "tree" / "d0").chmod(0o500)
    return tmp_path / "tree"


@pytest.fixture
def archive(tree: Path, tmp_path: Path) -> Path:
    pack([Part(tree, "")], tmp_path / "a.zip")
    return tmp_path / "a.zip"


def test_a_large_tree_comes_back_with_its_record(
    tree: Path, archive: Path, tmp_path: Path, snapshot: SnapshotOf
) -> None:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    unpack(archive, {"": tmp_path / "out"}, record=tmp_path / "record", sha256=sha256)
    assert snapshot(tmp_path / "out") == snapshot(tree)
    assert unchanged(tmp_path / "record", [Part(tmp_path / "out", "")])
    (tmp_path / "out" / "many" / "1.txt").write_bytes(b"changed")
    assert not unchanged(tmp_path / "record", [Part(tmp_path / "out", "")])


@pytest.mark.parametrize("pair", [("many/9.txt", "many/large"), ("many/large", "z/1999.txt")])
def test_of_two_damaged_entries_the_first_is_told_every_time(
    pair: tuple[str, str], archive: Path, tmp_path: Path
) -> None:
    """The large one is begun first, by the second thread."""
    with open_archive(archive) as opened:
        first, second = (span for span in judge(opened, OWN).spans if span.record.name in pair)
    raw = bytearray(archive.read_bytes())
    for span in (first, second):
        raw[span.start + span.record.compressed_size // 2] ^= 1
    archive.write_bytes(raw)
    (tmp_path / "place").mkdir()
    for _ in range(5):
        with pytest.raises(ArchiveRefused, match=rf"entry {first.record.number} "):
            unpack(archive, {"": tmp_path / "place" / "out"})
        assert list((tmp_path / "place").iterdir()) == []
