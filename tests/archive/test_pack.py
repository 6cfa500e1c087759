"""Packing is a privileged read of a hostile tree: what it takes, what it lists, what it never does."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from overnight.archive import (
    OWN_CAPS,
    RESERVED,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    ArchiveRefused,
    Caps,
    LeftOut,
    Omission,
    Packed,
    Part,
    Refusal,
    inspect,
    pack,
    remove_tree,
    unpack,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def packed_tree(tree: Path, tmp_path: Path) -> Callable[..., tuple[Packed, list[str]]]:
    def run(limits: Caps = OWN_CAPS) -> tuple[Packed, list[str]]:
        packed = pack([Part(tree, "")], tmp_path / "a.zip", limits=limits)
        return packed, [entry.name for entry in inspect(tmp_path / "a.zip").entries]

    return run


PackedTree = Callable[..., tuple[Packed, list[str]]]


def test_names_come_in_bytes_order_ours_first(tree: Path, tmp_path: Path) -> None:
    for name in ("b", "a.txt", "a", "\u00e9", "Z", "a-"):
        (tree / name).mkdir() if name == "a" else (tree / name).touch()
    (tree / "a" / "in").touch()
    (tmp_path / "talk").mkdir()
    parts = [Part(tree, ""), Part(tmp_path / "talk", TRANSCRIPT_PREFIX)]
    pack(parts, tmp_path / "a.zip", entries={SESSION_ENTRY: b"{}"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
    assert names[:2] == [".overnight/", SESSION_ENTRY]
    assert names[-1] == f"{TRANSCRIPT_PREFIX}/"
    assert names[2:-1] == ["Z", "a-", "a.txt", "a/", "a/in", "b", "\u00e9"]


def test_equal_trees_give_equal_bytes(tree: Path, tmp_path: Path) -> None:
    (tree / "x").write_text("x" * 1000)
    first, second = io.BytesIO(), tmp_path / "a.zip"
    to_stream = pack([Part(tree, "")], first)
    (tree / "x").read_text()  # reading moves the atime only
    to_path = pack([Part(tree, "")], second)
    assert first.getvalue() == second.read_bytes()
    assert to_stream == to_path
    assert to_path.size == second.stat().st_size


def test_excluded_names_are_left_out_anywhere_and_listed(tree: Path, packed_tree: PackedTree) -> None:
    (tree / "web" / "node_modules" / "x").mkdir(parents=True)
    (tree / ".git").mkdir()
    (tree / "dist").symlink_to("/")
    (tree / "distance").touch()
    packed, names = packed_tree()
    assert names == ["distance", "web"]
    assert [(out.path, out.reason) for out in packed.left_out] == [
        (".git", Omission.EXCLUDED),
        ("dist", Omission.EXCLUDED),
        ("web/node_modules", Omission.EXCLUDED),
    ]


def test_a_transcript_is_whole_whatever_is_excluded(tree: Path, tmp_path: Path) -> None:
    (tree / "dist").mkdir()
    pack([Part(tree, TRANSCRIPT_PREFIX)], tmp_path / "a.zip")
    assert f"{TRANSCRIPT_PREFIX}/dist" in [entry.name for entry in inspect(tmp_path / "a.zip").entries]


def test_what_is_no_file_is_listed_and_never_hangs(tree: Path, packed_tree: PackedTree) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        packed, names = packed_tree()
    assert names == []
    assert [out.reason for out in packed.left_out] == [Omission.SPECIAL] * 2


def test_odd_names_are_kept_and_our_own_is_listed(tree: Path, packed_tree: PackedTree) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff")).touch()
    (tree / RESERVED).mkdir()
    (tree / RESERVED / "session.json").write_text("forged")
    (tree / "sub" / RESERVED).mkdir(parents=True)
    packed, names = packed_tree()
    assert names == ["bad\udcff", "sub", f"sub/{RESERVED}"]
    assert packed.left_out == (LeftOut(RESERVED, Omission.RESERVED),)


_PACK_AND_TELL = """
import json, sys
from pathlib import Path
from overnight.archive import Part, pack
packed = pack([Part(Path(sys.argv[1]), "")], Path(sys.argv[2]))
print(json.dumps([[out.path, out.reason] for out in packed.left_out]))
"""


def test_unreadable_files_are_listed(tree: Path, tmp_path: Path) -> None:
    (tree / "secret").touch(mode=0)
    (tree / "closed").mkdir(mode=0)
    # Root may read everything, unless it gives up the right to.
    mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*mortal, sys.executable, "-c", _PACK_AND_TELL, str(tree), str(tmp_path / "a.zip")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["closed", Omission.UNREADABLE], ["secret", Omission.UNREADABLE]]


def test_no_link_is_followed(tree: Path, tmp_path: Path, packed_tree: PackedTree) -> None:
    (tmp_path / "key").write_text("sk-secret-of-the-service")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("sk-secret-of-the-service")
    (tree / "file").symlink_to(tmp_path / "key")
    (tree / "directory").symlink_to(tmp_path / "outside")
    _, names = packed_tree()
    assert names == ["directory", "file"]
    assert b"sk-secret" not in (tmp_path / "a.zip").read_bytes()


def test_a_root_that_is_a_link_is_an_error(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(OSError, match="link"):
        pack([Part(tmp_path / "link", "")], tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@pytest.fixture
def deep_tree(tree: Path) -> Iterator[Path]:
    """1,500 levels. Removed by us: pytest's own cleaning ends in a RecursionError."""
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield tree
    remove_tree(tree)


def test_deep_trees_stop_at_the_cap_and_the_rest_is_listed(deep_tree: Path, packed_tree: PackedTree) -> None:
    packed, names = packed_tree()
    assert deep_tree.exists()
    assert len(names) == 64
    assert packed.left_out == (LeftOut("/".join(["d"] * 65), Omission.TOO_DEEP),)


def test_the_list_is_capped_and_the_total_is_not(tree: Path, packed_tree: PackedTree) -> None:
    for number in range(130):
        os.mkfifo(tree / str(number))
    packed, _ = packed_tree()
    assert len(packed.left_out) == 100
    assert packed.left_out_total == 130


def test_a_file_over_the_limit_is_listed_even_if_it_is_a_hole(tree: Path, packed_tree: PackedTree) -> None:
    os.truncate(os.open(tree / "hole", os.O_CREAT | os.O_WRONLY), 1 << 40)
    packed, names = packed_tree()
    assert names == []
    assert packed.left_out == (LeftOut("hole", Omission.TOO_LARGE),)


@pytest.mark.parametrize(
    "limits",
    [Caps(entries=2), Caps(content_bytes=2500), Caps(archive_bytes=1500), Caps(directory_bytes=100)],
    ids=["entries", "content", "archive", "directory"],
)
def test_a_tree_over_a_limit_is_refused_and_the_old_archive_stays(
    limits: Caps, tree: Path, tmp_path: Path, packed_tree: PackedTree
) -> None:
    (tmp_path / "a.zip").write_text("the archive before")
    for name in "abc":
        (tree / name).write_bytes(os.urandom(1000))
    with pytest.raises(ArchiveRefused) as refused:
        packed_tree(limits)
    assert refused.value.reason_code is Refusal.TOO_LARGE
    assert (tmp_path / "a.zip").read_text() == "the archive before"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.zip", "tree"]


def test_a_full_disk_is_an_error_and_no_omission(tree: Path) -> None:
    """If it were taken for an unreadable file, the session would lose that file without a word."""
    (tree / "a").write_bytes(os.urandom(100_000))
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        pack([Part(tree, "")], full)


def test_only_our_own_names_may_be_added(tree: Path) -> None:
    for name in ("x", ".overnight", ".overnight/../x", ".overnight//x", "/.overnight/x"):
        with pytest.raises(ValueError, match="must lie below"):
            pack([Part(tree, "")], io.BytesIO(), entries={name: b""})


@contextmanager
def meanwhile(change: Callable[[int], None]) -> Iterator[None]:
    """Repeats a change in a thread; has made it at least once before the block begins."""
    stop, begun = threading.Event(), threading.Event()

    def loop() -> None:
        turn = 0
        while not stop.is_set():
            change(turn)
            begun.set()
            turn += 1

    thread = threading.Thread(target=loop)
    thread.start()
    begun.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_file_that_changes_under_the_reader_is_stored_and_listed(
    tree: Path, tmp_path: Path, packed_tree: PackedTree
) -> None:
    (tree / "busy").write_bytes(os.urandom(8 << 20))
    (tree / "calm").write_text("calm")

    def touch_up(turn: int) -> None:
        with (tree / "busy").open("r+b") as file:
            file.write(turn.to_bytes(8, "little"))

    with meanwhile(touch_up):
        packed, names = packed_tree()
    assert names == ["busy", "calm"]
    assert packed.changed == ("busy",)
    unpack(tmp_path / "a.zip", {"": tmp_path / "again"})
    assert (tmp_path / "again" / "busy").stat().st_size == 8 << 20


def test_chaos_in_the_tree_never_fails_a_pack_nor_lets_foreign_bytes_in(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "0").write_bytes(b"foreign" * 1000)
    (tmp_path / "key").write_bytes(b"foreign" * 1000)

    def shuffle(turn: int) -> None:
        name = tree / str(turn % 5)
        shape = turn // 5 % 6
        if name.is_dir() and not name.is_symlink():
            (name / "0").unlink(missing_ok=True)
            name.rmdir()
        else:
            name.unlink(missing_ok=True)
        if shape == 0:
            name.write_bytes(b"own" * (turn % 3000))
        elif shape == 1:
            name.symlink_to(tmp_path / "key")
        elif shape == 2:
            os.mkfifo(name)
        elif shape == 3:
            name.mkdir()
            (name / "0").write_bytes(b"own")
        elif shape == 4:
            name.symlink_to(tmp_path / "outside")

    with meanwhile(shuffle):
        for turn in range(150):
            target = tmp_path / f"{turn}.zip"
            pack([Part(tree, "")], target)
            with zipfile.ZipFile(target) as archive:
                contents = [archive.read(name) for name in archive.namelist()]
            assert not any(b"foreignforeign" in content for content in contents)
            unpack(target, {"": tmp_path / f"again{turn}"})


SWAPPER = """
import itertools, os, sys
key, staged, place = sys.argv[1:]
for turn in itertools.count():
    if turn % 2:
        os.symlink(key, staged)
    else:
        with open(staged, "wb") as file:
            file.write(b"own")
    os.replace(staged, place)
    if turn == 1:
        print("begun", flush=True)
"""


def test_a_link_put_in_the_place_of_a_file_between_look_and_open_is_not_followed(
    tree: Path, tmp_path: Path
) -> None:
    """Another process swaps the two as fast as it can: a thread of ours would mostly wait for its turn."""
    (tmp_path / "key").write_bytes(b"foreign" * 9)  # short enough to be stored as it is
    places = [tmp_path / "key", tmp_path / "staged", tree / "file"]
    command = [sys.executable, "-c", SWAPPER, *map(str, places)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            assert swapper.stdout.readline() == b"begun\n"
            for _ in range(1500):
                target = io.BytesIO()
                pack([Part(tree, "")], target)
                assert b"foreign" not in target.getvalue()
        finally:
            swapper.kill()


class Broken(io.BytesIO):
    """A stream whose other end goes away after some bytes."""

    def write(self, chunk: object) -> int:
        if self.tell() > 1000:
            raise BrokenPipeError
        return super().write(chunk)  # type: ignore[arg-type]  # the buffer protocol has no name before 3.12


def test_an_error_of_the_target_is_the_callers(tree: Path) -> None:
    for name in "abc":
        (tree / name).write_bytes(os.urandom(1 << 20))
    target: BinaryIO = Broken()
    with pytest.raises(BrokenPipeError):
        pack([Part(tree, "")], target)


class Sips(io.BytesIO):
    """A file without a buffer on a disk that is almost full: it takes the beginning of what it is given."""

    def write(self, chunk: object) -> int:
        return super().write(memoryview(chunk)[:70_000])  # type: ignore[arg-type]  # as above


def test_a_target_that_takes_less_than_it_is_given_gets_the_rest_as_well(tree: Path) -> None:
    (tree / "a").write_bytes(os.urandom(1 << 20))
    target = Sips()
    packed = pack([Part(tree, "")], target)
    assert hashlib.sha256(target.getvalue()).hexdigest() == packed.sha256
