"""A restore can note what it wrote, so that the next pack knows what is still the same."""

import hashlib
import os
from pathlib import Path

import pytest

from overnight.archive import TRANSCRIPT_PREFIX, UPLOAD, ArchiveRefused, Part, pack, unpack
from overnight.archive.record import load, status_of


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "d" / "empty").mkdir(parents=True)
    (tree / "d" / "text").write_text("text" * 100)
    (tree / os.fsdecode(b"caf\xc3\xa9")).write_text("")
    (tree / "link").symlink_to("d/text")
    (tree / "d").chmod(0o500)
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "s.jsonl").write_text("{}")
    pack([Part(tree, ""), Part(tmp_path / "talk", TRANSCRIPT_PREFIX)], tmp_path / "a.zip")
    return tmp_path / "a.zip"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_record_holds_the_final_status_of_each_entry_and_of_nothing_else(archive: Path) -> None:
    place = archive.parent
    routes = {"": place / "f", TRANSCRIPT_PREFIX: place / "t"}
    unpack(archive, routes, record=place / "record", sha256=sha256(archive))
    record = load(place / "record")
    assert record is not None
    assert record.statuses == {
        os.fsencode(f"{prefix}/{path.relative_to(root)}" if prefix else path.relative_to(root)): status_of(
            path.lstat()
        )
        for prefix, root in routes.items()
        for path in root.rglob("*")
    }
    assert (record.archive_size, record.archive_sha256) == (archive.stat().st_size, sha256(archive))


def test_a_refused_archive_leaves_no_record(archive: Path) -> None:
    """Not even that of an earlier one: the tree that it told of is not there."""
    place = archive.parent
    unpack(archive, {"": place / "f"}, record=place / "record", sha256=sha256(archive))
    (place / "b.zip").write_bytes(archive.read_bytes().replace(b"{}", b"[]"))
    with pytest.raises(ArchiveRefused):
        unpack(
            place / "b.zip",
            {"": place / "g", TRANSCRIPT_PREFIX: place / "t"},
            record=place / "record",
            sha256="0" * 64,
        )
    assert not (place / "record").exists()
    assert not (place / "g").exists()


def test_only_an_archive_of_ours_with_its_checksum_gets_a_record(archive: Path) -> None:
    place = archive.parent
    for refused in ({"sha256": None}, {"sha256": sha256(archive), "profile": UPLOAD}):
        with pytest.raises(ValueError, match="record"):
            unpack(archive, {"": place / "f"}, record=place / "record", **refused)
