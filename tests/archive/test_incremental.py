"""A pack upon a base holds what a full pack would, takes what did not change from the base, and nothing else."""

import os
import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.archive import (
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    Base,
    Check,
    Packed,
    Part,
    SecretFound,
    inspect,
    pack,
    prune,
    scan,
    unchanged,
    unpack,
)

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]
MIB = 1 << 20


class Workspace:
    """A tree with its last archive and record."""

    def __init__(self, place: Path) -> None:
        self.tree = place / "tree"
        self.tree.mkdir(exist_ok=True)
        self.parts = [Part(self.tree, "")]
        self._place = place
        self._number = 0

    @property
    def archive(self) -> Path:
        return self._place / f"{self._number}.zip"

    @property
    def record(self) -> Path:
        return self._place / f"{self._number}.record"

    def base(self) -> Base | None:
        return Base(self.archive, self.record) if self._number else None

    def pack(self, *, base: bool = True, check: Check = Check.STATUS, settled: bool = True) -> Packed:
        before = self.base() if base else None
        self._number += 1
        return pack(
            self.parts,
            self.archive,
            base=before,
            record=self.record,
            check=check,
            settled=settled,
            exclude=(),
        )

    def restored(self) -> Path:
        target = self._place / f"restored-{self._number}"
        unpack(self.archive, {"": target})
        return target


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def contents(path: Path) -> dict[str, tuple[int, tuple[int, ...], int, bytes]]:
    """What the standard library reads; it also checks every checksum."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {
            info.filename: (info.external_attr, info.date_time, info.file_size, archive.read(info))
            for info in archive.infolist()
        }


def has_no_dead_bytes(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        at = 0
        for info in infos:
            assert info.header_offset == at
            with path.open("rb") as file:
                file.seek(at + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in "ne")
            at += 30 + name + extra + info.compress_size + 16 * bool(info.flag_bits & 8)
        return at == archive.start_dir


NAMES = st.sampled_from(["a", "b", "c", "d/e", "d/f", "d/g/h", "caf\u00e9"])
EDITS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "write",
                "same size",
                "touch",
                "chmod",
                "rename",
                "delete",
                "directory",
                "link",
                "grow",
                "shrink",
            ]
        ),
        NAMES,
        st.integers(0, 255),
    ),
    max_size=12,
)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_room(root: Path, path: Path) -> None:
    for parent in [*path.relative_to(root).parents][-2::-1]:
        if (root / parent).is_symlink() or not (root / parent).is_dir():
            clear(root / parent)
            (root / parent).mkdir()


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def edit(root: Path, kind: str, name: str, number: int) -> None:
    path = root / name
    make_room(root, path)
    if kind == "write":
        clear(path)
        path.write_bytes(bytes([number]) * (number * 7))
    elif kind == "directory":
        clear(path)
        path.mkdir()
    elif kind == "link":
        clear(path)
        path.symlink_to(f"to-{number}")
    elif kind == "delete":
        clear(path)
    elif kind == "rename" and os.path.lexists(path):
        clear(root / f"renamed-{number % 3}")
        path.rename(root / f"renamed-{number % 3}")
    elif is_plain(path):
        rewrite(path, kind, number)


def rewrite(path: Path, kind: str, number: int) -> None:
    before = path.stat()
    if kind == "same size":
        path.write_bytes(bytes([number]) * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif kind == "touch":
        os.utime(path, ns=(number, number * 10**9))
    elif kind == "chmod":
        path.chmod(0o600 | number & 0o77)
    elif kind == "grow":
        with path.open("ab") as file:
            file.write(bytes(number))
    else:
        os.truncate(path, min(before.st_size, number))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(EDITS, min_size=1, max_size=4), check=st.sampled_from(list(Check)))
def test_any_sequence_of_edits_gives_what_a_full_pack_gives(
    rounds: list[list[tuple[str, str, int]]], check: Check, snapshot: SnapshotOf
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch).resolve())
        for edits in rounds:
            for kind, name, number in edits:
                edit(workspace.tree, kind, name, number)
            workspace.pack(check=check)
            assert snapshot(workspace.restored()) == snapshot(workspace.tree)
            full = Path(scratch) / "full.zip"
            pack(workspace.parts, full, exclude=())
            assert contents(workspace.archive) == contents(full)
            assert has_no_dead_bytes(workspace.archive)
            assert unchanged(workspace.record, workspace.parts, ())


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


def transcript_line(number: int) -> bytes:
    return b'{"uuid": "%d", "text": "' % number + os.urandom(200).hex().encode() + b'"}\n'


GROWTHS: dict[str, Callable[[], bytes]] = {
    "shrinks": lambda: b"".join(map(transcript_line, range(2000))),
    "does not": lambda: os.urandom(MIB),
}


@pytest.mark.parametrize("content", GROWTHS)
def test_a_file_that_grew_keeps_its_blocks_and_is_what_a_full_pack_makes(
    workspace: Workspace, tmp_path: Path, content: str
) -> None:
    path = workspace.tree / "log"
    grow = GROWTHS[content]
    path.write_bytes(b"".join(grow() for _ in range(8)))
    full = workspace.pack()
    for _ in range(3):
        with path.open("ab") as file:
            file.write(grow())
        grown = workspace.pack()
        assert grown.fresh_bytes < 3.2 * MIB < full.size
        pack(workspace.parts, tmp_path / "full.zip", exclude=())
        assert workspace.archive.read_bytes() == (tmp_path / "full.zip").read_bytes()


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 3 * MIB + 5])
def test_a_log_whose_beginning_changed_is_packed_anew_from_there(
    workspace: Workspace, tmp_path: Path, at: int
) -> None:
    path = workspace.tree / "log"
    path.write_bytes(b"".join(map(transcript_line, range(14_000))))
    workspace.pack()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
        file.seek(0, os.SEEK_END)
        file.write(b"more")
    grown = workspace.pack()
    pack(workspace.parts, tmp_path / "full.zip", exclude=())
    assert workspace.archive.read_bytes() == (tmp_path / "full.zip").read_bytes()
    assert (grown.fresh_bytes < grown.size - 1000) == (at >= MIB)


def test_content_full_of_what_ends_a_block_is_no_trap(workspace: Workspace) -> None:
    path = workspace.tree / "trap"
    path.write_bytes(os.urandom(MIB) + b"\x00\x00\xff\xff" * (MIB * 5 // 4))
    workspace.pack()
    with path.open("ab") as file:
        file.write(b"\x00\x00\xff\xff")
    workspace.pack()
    assert contents(workspace.archive)["trap"][3] == path.read_bytes()


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


def test_only_named_entries_are_looked_at_for_secrets(workspace: Workspace) -> None:
    (workspace.tree / "old").write_text("canary")
    (workspace.tree / "new").write_text("canary")
    workspace.pack()
    found = scan(workspace.archive, lambda text: Counter(canary=text.count("canary")), names={"new"})
    assert found.found == (SecretFound("new", "canary", 1),)


def test_a_stream_is_told_of_as_it_grows(workspace: Workspace, tmp_path: Path) -> None:
    for number in range(5):
        (workspace.tree / str(number)).write_bytes(os.urandom(MIB))
    seen: list[tuple[int, int]] = []
    growing = tmp_path / "growing.zip"
    with growing.open("wb") as file:
        packed = pack(workspace.parts, file, wrote=lambda size: seen.append((size, growing.stat().st_size)))
    assert [said for said, _ in seen] == sorted({said for said, _ in seen})
    assert len(seen) > 4
    assert all(said <= there for said, there in seen)
    assert seen[-1][0] == packed.size == growing.stat().st_size


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
