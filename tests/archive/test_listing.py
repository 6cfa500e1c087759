"""Looking into an archive: a listing, and one file by its exact name."""

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from overnight.archive import (
    ArchiveRefused,
    Entry,
    EntryMissing,
    Kind,
    Listing,
    Part,
    inspect,
    inspect_end,
    pack,
    read_entry,
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / "large").write_bytes(b"0123456789" * 200_000)
    (root / "link").symlink_to("d/large")
    pack([Part(root, "")], tmp_path / "a.zip")
    return tmp_path / "a.zip"


def test_a_listing_says_kind_size_mode_and_mtime(archive: Path, tmp_path: Path) -> None:
    listing = inspect(archive)
    large = (tmp_path / "tree/d/large").stat()
    assert [(entry.name, entry.kind) for entry in listing.entries] == [
        ("d", Kind.DIRECTORY),
        ("d/large", Kind.FILE),
        ("link", Kind.SYMLINK),
    ]
    mtime = large.st_mtime_ns // 100 * 100
    assert listing.entries[1] == Entry("d/large", Kind.FILE, 2_000_000, large.st_mode & 0o777, mtime)
    assert listing.size == archive.stat().st_size
    assert listing.content_bytes == 2_000_000 + len("d/large")


def test_the_end_alone_tells_the_same_or_from_where_on_it_is_needed(archive: Path) -> None:
    content = archive.read_bytes()
    needed = inspect_end(content[-30:], len(content))
    assert isinstance(needed, int)
    for start in range(len(content) - 30, -1, -1):
        told = inspect_end(content[start:], len(content))
        assert told == inspect(archive) if isinstance(told, Listing) else told < start
    assert inspect_end(content[needed:], len(content)) != needed


def test_an_end_that_is_no_zip_is_refused(archive: Path) -> None:
    content = archive.read_bytes()
    for end in (b"", b"no zip at all" * 10, content[-100:-1] + b"x"):
        with pytest.raises(ArchiveRefused):
            inspect_end(end, len(end))


def test_one_file_is_read_in_chunks(archive: Path) -> None:
    with read_entry(archive, "d/large") as found:
        chunks = list(found)
    assert found.size == 2_000_000
    assert len(chunks) > 1
    assert b"".join(chunks) == b"0123456789" * 200_000


def test_a_file_stays_readable_while_its_archive_is_deleted(archive: Path) -> None:
    found = read_entry(archive, "d/large")
    archive.unlink()
    assert sum(map(len, found)) == 2_000_000


@pytest.mark.parametrize(
    "name", ["d", "d/", "link", "D/large", "d//large", "./d/large", "", "/d/large", "d/large/"]
)
def test_anything_but_the_exact_name_of_a_file_is_missing(name: str, archive: Path) -> None:
    with pytest.raises(EntryMissing):
        read_entry(archive, name)


def test_damage_is_found_at_the_latest_at_the_end(forge: Callable[..., Path]) -> None:
    path = forge(("a", b"needle"))
    path.write_bytes(path.read_bytes().replace(b"needle", b"poodle"))
    with read_entry(path, "a") as found, pytest.raises(ArchiveRefused):
        list(found)


def test_no_byte_beyond_the_declared_size_comes_out(forge: Callable[..., Path]) -> None:
    path = forge(("zeros", bytes(1 << 20)), method=zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", 1 << 20), struct.pack("<L", 1000)))
    sizes: list[int] = []
    with read_entry(path, "zeros") as found, pytest.raises(ArchiveRefused):
        sizes.extend(len(chunk) for chunk in found)
    assert sum(sizes) <= 1000


def test_a_name_that_is_not_utf8_is_found_as_it_is_shown(tmp_path: Path) -> None:
    """JSON and URLs cannot carry its bytes. A file that is truly called so comes first."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / os.fsdecode(b"bad\xff")).write_text("bytes")
    (tree / os.fsdecode(b"twin\xff")).write_text("bytes")
    (tree / "twin\\xff").write_text("text")
    pack([Part(tree, "")], tmp_path / "a.zip")
    for name, content in (
        ("bad\\xff", b"bytes"),
        ("twin\\xff", b"text"),
        (os.fsdecode(b"twin\xff"), b"bytes"),
    ):
        assert b"".join(read_entry(tmp_path / "a.zip", name)) == content
