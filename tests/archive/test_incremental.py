"""A pack upon a base takes what did not change from the base, and nothing else."""

import os
import shutil
from pathlib import Path

import pytest
from tests.archive.workspaces import MIB, Workspace, contents

from overnight.archive import (
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    Base,
    Caps,
    Check,
    Part,
    inspect,
    pack,
    unchanged,
)


def test_what_did_not_change_is_copied(workspace: Workspace) -> None:
    for number in range(50):
        (workspace.tree / f"{number:02}").write_bytes(os.urandom(1000))
    full = workspace.pack()
    (workspace.tree / "20").write_bytes(b"new")
    packed = workspace.pack()
    assert (full.incremental, full.reused_entries, full.fresh_bytes) == (False, 0, full.size)
    assert (packed.incremental, packed.reused_entries) == (True, 49)
    assert packed.fresh_bytes < 10_000 < packed.size
    assert [entry.name for entry in inspect(workspace.archive).entries][-1] == "20"


def test_a_rewrite_of_the_same_size_with_its_old_mtime_is_noticed(workspace: Workspace) -> None:
    path = workspace.tree / "a"
    path.write_bytes(b"before")
    before = path.stat()
    workspace.pack()
    path.write_bytes(b"after!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not unchanged(workspace.record, workspace.parts)
    workspace.pack()
    assert (workspace.restored() / "a").read_bytes() == b"after!"


def test_what_is_young_in_a_live_tree_is_read_again(workspace: Workspace) -> None:
    (workspace.tree / "old").write_bytes(b"old")
    os.utime(workspace.tree / "old", ns=(0, 0))  # its ctime is still young
    (workspace.tree / "sub").mkdir()
    workspace.pack(settled=False)
    assert not unchanged(workspace.record, workspace.parts)
    assert (
        workspace.pack(settled=False).reused_entries == 1
    )  # the directory: what it holds is looked at anyway


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "record missing", "record cut", "other"])
def test_a_base_that_does_not_fit_means_a_full_pack(workspace: Workspace, damage: str) -> None:
    (workspace.tree / "a").write_bytes(b"a" * 1000)
    workspace.pack()
    archive, record = workspace.archive, workspace.record
    if damage == "missing":
        archive.unlink()
    elif damage == "cut":
        os.truncate(archive, archive.stat().st_size - 1)
    elif damage == "flipped":
        data = bytearray(archive.read_bytes())
        data[-30] ^= 1
        archive.write_bytes(data)
    elif damage == "record missing":
        record.unlink()
    elif damage == "record cut":
        os.truncate(record, record.stat().st_size - 1)
    else:
        (workspace.tree / "a").write_bytes(b"b" * 1000)
        pack(workspace.parts, archive)
    packed = workspace.pack()
    assert not packed.incremental
    assert packed.reused_entries == 0
    assert contents(workspace.archive)["a"][3] == (workspace.tree / "a").read_bytes()


def test_by_content_a_moved_tree_is_still_the_same(workspace: Workspace, tmp_path: Path) -> None:
    """Inodes and ctimes are other ones in a copy: its status tells nothing, every byte of it does."""
    for name, content in (("small", b"x" * 40), ("text", b"ab" * 5000), ("large", os.urandom(5 * MIB))):
        (workspace.tree / name).write_bytes(content)
    workspace.pack()
    shutil.copytree(workspace.tree, tmp_path / "copy")
    workspace.tree.rename(tmp_path / "before")
    (tmp_path / "copy").rename(workspace.tree)
    assert workspace.pack(check=Check.CONTENT).reused_entries == 3
    with (workspace.tree / "large").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    os.utime(workspace.tree / "large", ns=(0, (tmp_path / "before" / "large").stat().st_mtime_ns))
    assert workspace.pack(check=Check.CONTENT).reused_entries == 2


def test_a_transcript_is_reused_and_ours_is_written_each_time(tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "s.jsonl").write_bytes(b"line\n" * 100)
    parts = [Part(tmp_path / "talk", TRANSCRIPT_PREFIX)]
    for number in (1, 2, 3):
        base = Base(tmp_path / f"{number - 1}.zip", tmp_path / f"{number - 1}.record")
        entries = {SESSION_ENTRY: b"%d" % number}
        archive, record = tmp_path / f"{number}.zip", tmp_path / f"{number}.record"
        packed = pack(parts, archive, entries=entries, base=base, record=record)
        assert packed.reused_entries == (number > 1)
        assert packed.entries == len(inspect(archive).entries) == 4
        assert contents(archive)[SESSION_ENTRY][3] == b"%d" % number
        assert unchanged(record, parts)


@pytest.mark.parametrize("rule", ["name", "pattern"])
def test_a_file_that_is_not_wanted_any_more_is_not_taken_from_the_base(
    workspace: Workspace, rule: str
) -> None:
    (workspace.tree / "sub").mkdir()
    for name in ("sub/dist", "sub/kept"):
        (workspace.tree / name).write_text(name)
    workspace.pack()
    if rule == "pattern":
        (workspace.tree / ".overnightignore").write_text("di*\n")
    exclude = {"dist"} if rule == "name" else ()
    assert not unchanged(workspace.record, workspace.parts, exclude)
    packed = pack(workspace.parts, workspace.archive, base=workspace.base(), exclude=exclude)
    assert [left.path for left in packed.left_out] == ["sub/dist"]
    assert packed.reused_entries == 2
    assert "sub/dist" not in contents(workspace.archive)
    assert contents(workspace.archive)["sub/kept"][3] == b"sub/kept"


@pytest.mark.parametrize("limits", [Caps(depth=2), Caps(path_bytes=5)])
def test_what_has_no_place_any_more_is_not_taken_from_the_base(workspace: Workspace, limits: Caps) -> None:
    (workspace.tree / "a" / "b").mkdir(parents=True)
    (workspace.tree / "a" / "b" / "long").write_text("x")
    (workspace.tree / "a" / "c").write_text("x")
    workspace.pack()
    packed = pack(workspace.parts, workspace.archive, base=workspace.base(), limits=limits)
    assert [left.path for left in packed.left_out] == ["a/b/long"]
    assert sorted(contents(workspace.archive)) == ["a/", "a/b/", "a/c"]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nbreak", "\U0001f600".encode(), b"x" * 255])
def test_odd_names_and_times_are_known_again(workspace: Workspace, name: bytes) -> None:
    path = workspace.tree / os.fsdecode(name)
    path.write_text("x")
    year_2446 = 15_000_000_000
    os.utime(path, (year_2446, year_2446))
    if path.stat().st_mtime != year_2446:
        pytest.skip("this file system has no such times")
    workspace.pack()
    assert unchanged(workspace.record, workspace.parts)
    assert workspace.pack().reused_entries == 1
