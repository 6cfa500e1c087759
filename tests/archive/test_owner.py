"""What is restored belongs to whom it is restored for."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from overnight.archive import TRANSCRIPT_PREFIX, Part, pack, unpack

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Every kind of entry, and directories that only names imply."""
    tree = tmp_path / "tree"
    (tree / "d" / "e").mkdir(parents=True)
    (tree / "d" / "e" / "text").write_text("text" * 100)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1755)
    (tree / "link").symlink_to("d/e/text")
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "s.jsonl").write_text("{}")
    pack([Part(tree, ""), Part(tmp_path / "talk", TRANSCRIPT_PREFIX)], tmp_path / "a.zip")
    return tmp_path / "a.zip"


def owners(root: Path) -> set[tuple[int, int]]:
    found = [root.lstat(), *(path.lstat() for path in root.rglob("*"))]
    return {(status.st_uid, status.st_gid) for status in found}


def someone() -> tuple[int, int]:
    """Another user where we may give files away, else ourselves in one of our groups."""
    return (54_321, 54_322) if os.geteuid() == 0 else (os.getuid(), os.getgroups()[-1])


def test_all_that_is_written_belongs_to_the_owner(archive: Path, snapshot: SnapshotOf) -> None:
    place = archive.parent
    unpack(archive, {"": place / "f", TRANSCRIPT_PREFIX: place / "t"}, owner=someone())
    assert owners(place / "f") == owners(place / "t") == {someone()}
    assert snapshot(place / "f") == snapshot(place / "tree")
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o700


def test_directories_that_only_names_imply_belong_to_the_owner(
    forge: Callable[..., Path], tmp_path: Path
) -> None:
    unpack(forge(("a/b/c.txt", b"x")), {"": tmp_path / "f"}, owner=someone())
    assert owners(tmp_path / "f") == {someone()}


def test_what_a_link_leads_to_keeps_its_owner(archive: Path, tmp_path: Path) -> None:
    """A change of owner that followed links would hand over any file of the machine."""
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "tree" / "out").symlink_to(tmp_path / "outside")
    before = owners(tmp_path / "outside")
    pack([Part(tmp_path / "tree", "")], tmp_path / "b.zip")
    unpack(tmp_path / "b.zip", {"": tmp_path / "f"}, owner=someone())
    assert owners(tmp_path / "outside") == before
    assert owners(tmp_path / "f") == {someone()}
