"""Whether a kept tree still is what its archive holds, and a restored one as good as a kept one."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.archive.workspaces import MIB, Workspace, contents, transcript_line

from overnight.archive import TRANSCRIPT_PREFIX, Base, Part, pack, prune, unchanged, unpack

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]


@pytest.mark.parametrize("change", ["write", "new", "delete", "chmod", "retarget", "touch directory"])
def test_every_change_of_a_kept_tree_is_noticed(workspace: Workspace, change: str) -> None:
    (workspace.tree / "sub").mkdir()
    (workspace.tree / "sub" / "file").write_text("x")
    (workspace.tree / "link").symlink_to("sub")
    workspace.pack()
    assert unchanged(workspace.record, workspace.parts)
    if change == "write":
        (workspace.tree / "sub" / "file").write_text("y")
    elif change == "new":
        (workspace.tree / "more").touch()
    elif change == "delete":
        (workspace.tree / "sub" / "file").unlink()
    elif change == "chmod":
        (workspace.tree / "sub").chmod(
            0o700 if stat.S_IMODE((workspace.tree / "sub").stat().st_mode) != 0o700 else 0o755
        )
    elif change == "retarget":
        (workspace.tree / "link").unlink()
        (workspace.tree / "link").symlink_to("bus")
    else:
        os.utime(workspace.tree / "sub", ns=(0, 0))
    assert not unchanged(workspace.record, workspace.parts)


def test_a_pruned_tree_is_what_a_restore_gives(
    workspace: Workspace, tmp_path: Path, snapshot: SnapshotOf
) -> None:
    tree = workspace.tree
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (tree / "web" / "node_modules").mkdir(parents=True)
    (tree / "web" / "node_modules" / "x").symlink_to(tmp_path / "outside")
    (tree / ".git").symlink_to(tmp_path / "outside")
    (tree / ".overnightignore").write_text("*.log\n")
    (tree / "a.log").touch()
    (tree / "file").touch()
    os.mkfifo(tree / "fifo")
    archive, record = tmp_path / "a.zip", tmp_path / "a.record"
    pack(workspace.parts, archive, record=record)
    assert unchanged(record, workspace.parts)
    prune(workspace.parts)
    unpack(archive, {"": tmp_path / "restored"})
    assert snapshot(tree) == snapshot(tmp_path / "restored")
    assert unchanged(record, workspace.parts)
    assert (tmp_path / "outside" / "kept").exists()


def test_after_a_restore_only_what_changed_is_read(workspace: Workspace, tmp_path: Path) -> None:
    """The usual case: another worker packed it, and the record is written by the restore."""
    (workspace.tree / "sub").mkdir()
    (workspace.tree / "sub" / "file").write_bytes(b"x" * 1000)
    (workspace.tree / "link").symlink_to("/etc")
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "s.jsonl").write_bytes(b"".join(map(transcript_line, range(14_000))))
    packed = pack([*workspace.parts, Part(tmp_path / "talk", TRANSCRIPT_PREFIX)], tmp_path / "a.zip")

    routes = {"": tmp_path / "again", TRANSCRIPT_PREFIX: tmp_path / "talk again"}
    record = tmp_path / "a.record"
    unpack(tmp_path / "a.zip", routes, record=record, sha256=packed.sha256)
    parts = [Part(path, prefix) for prefix, path in routes.items()]
    assert unchanged(record, parts)
    with (tmp_path / "talk again" / "s.jsonl").open("ab") as file:
        file.write(b"more")
    (tmp_path / "again" / "new").write_text("new")
    repacked = pack(parts, tmp_path / "b.zip", base=Base(tmp_path / "a.zip", record))

    assert repacked.reused_entries == 3
    assert repacked.fresh_bytes < 600_000 < MIB < repacked.size
    pack(parts, tmp_path / "full.zip")
    assert contents(tmp_path / "b.zip") == contents(tmp_path / "full.zip")
