"""Any tree -> pack -> unpack is the same tree, and every zip we make, we and others accept."""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.archive import (
    DEFAULT_EXCLUDE,
    RESERVED,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    UPLOAD,
    Part,
    inspect,
    pack,
    unpack,
)

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name not in {".", "..", RESERVED, *DEFAULT_EXCLUDE})
SECONDS = st.one_of(
    st.integers(-2_000_000_000, 13_000_000_000),  # 1906 to 2381: what ext4 can hold
    st.sampled_from([-(1 << 31) + 5, -1, 0, 315_532_799, 315_532_800, (1 << 31) - 1, 1 << 31, 4_354_819_199]),
)
CONTENT = st.one_of(st.binary(max_size=200), st.sampled_from([b"", b"x" * 64, b"x" * 65, b"ab" * 40_000]))


@dataclass(frozen=True)
class Planned:
    path: tuple[str, ...]
    kind: str
    content: bytes
    mode: int
    mtime_ns: int


PLANS = st.lists(
    st.builds(
        Planned,
        path=st.lists(NAMES, min_size=1, max_size=4).map(tuple),
        kind=st.sampled_from(["file", "directory", "link"]),
        content=CONTENT,
        mode=st.integers(0, 0o777),
        mtime_ns=st.builds(lambda s, ns: s * 10**9 + ns, SECONDS, st.integers(0, 10**9 - 1)),
    ),
    max_size=12,
)


def grow(root: Path, plan: list[Planned]) -> None:
    """Makes what of the plan fits together; modes and times last, deepest first."""
    made: list[tuple[Path, Planned]] = []
    for planned in plan:
        path = root.joinpath(*planned.path)
        above = path.parents[: len(planned.path) - 1]
        if any(part.is_symlink() or part.is_file() for part in above) or os.path.lexists(path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if planned.kind == "file":
            path.write_bytes(planned.content)
        elif planned.kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(planned.content.replace(b"\0", b"-")[:100].decode("latin-1") or "nowhere")
        made.append((path, planned))
    for path, planned in sorted(made, key=lambda item: len(item[0].parts), reverse=True):
        if planned.kind != "link":
            path.chmod(planned.mode | (0o700 if planned.kind == "directory" else 0o400))
        os.utime(path, ns=(planned.mtime_ns, planned.mtime_ns), follow_symlinks=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=PLANS)
def test_any_tree_comes_back_as_it_was(plan: list[Planned], snapshot: SnapshotOf) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch).resolve()
        (place / "tree").mkdir()
        grow(place / "tree", plan)
        packed = pack([Part(place / "tree", "")], place / "tree.zip")

        unpacked = unpack(place / "tree.zip", {"": place / "again"})

        assert snapshot(place / "again") == snapshot(place / "tree")
        assert packed.entries == unpacked.entries == len(inspect(place / "tree.zip").entries)
        assert packed.left_out_total == packed.changed_total == 0
        with zipfile.ZipFile(place / "tree.zip") as archive:
            assert archive.testzip() is None


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    """Names, links and modes that lose something in other packers."""
    root = tmp_path / "awkward"
    root.mkdir()
    for name in (
        "caf\u00e9",
        "cafe\u0301",
        "README",
        "readme",
        "new\nline",
        "back\\slash",
        "C:x",
        " ",
        "-rf",
        "x" * 255,
    ):
        (root / name).write_text(name)
    deep = root.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("bottom")
    (root / "empty").mkdir(mode=0o700)
    (root / "absolute").symlink_to("/usr/bin/python3")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "outward").symlink_to("../../../../etc/passwd")
    (root / "raw target").symlink_to(os.fsdecode(b"\xff\xfe"))
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o751)
    (root / "read only").mkdir()
    (root / "read only" / "file").write_text("kept")
    (root / "read only").chmod(0o555)
    return root


def test_an_awkward_tree_comes_back_as_it_was(awkward: Path, tmp_path: Path, snapshot: SnapshotOf) -> None:
    pack([Part(awkward, "")], tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "again"})
    assert snapshot(tmp_path / "again") == snapshot(awkward)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_accepts_our_archives(awkward: Path, tmp_path: Path) -> None:
    (awkward / "large").write_bytes(os.urandom(5 << 20))
    pack([Part(awkward, "")], tmp_path / "a.zip", entries={SESSION_ENTRY: b"{}"})
    done = subprocess.run(["unzip", "-t", tmp_path / "a.zip"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.parametrize(
    "size", [63, 64, 65, (1 << 20) - 1, 1 << 20, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9_000_001]
)
@pytest.mark.parametrize("content", ["zeros", "noise"])
def test_files_around_each_limit_of_the_reader_survive(size: int, content: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    body = bytes(size) if content == "zeros" else os.urandom(size)
    (tmp_path / "tree" / "file").write_bytes(body)
    packed = pack([Part(tmp_path / "tree", "")], tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "again"})
    assert (tmp_path / "again" / "file").read_bytes() == body
    assert packed.content_bytes == size
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("file") == body


def test_the_parts_go_where_their_prefix_is_routed(tmp_path: Path, snapshot: SnapshotOf) -> None:
    files, talk = tmp_path / "files", tmp_path / "talk"
    (files / "src").mkdir(parents=True)
    (files / "src" / "a.py").write_text("a = 1")
    (talk / "-work").mkdir(parents=True)
    (talk / "-work" / "s.jsonl").write_text("{}\n")
    parts = [Part(files, ""), Part(talk, TRANSCRIPT_PREFIX)]
    pack(
        parts, tmp_path / "a.zip", entries={SESSION_ENTRY: b'{"format": 1}', f"{RESERVED}/other": b"of later"}
    )

    unpacked = unpack(tmp_path / "a.zip", {"": tmp_path / "f", TRANSCRIPT_PREFIX: tmp_path / "t"})

    assert unpacked.session == b'{"format": 1}'
    assert snapshot(tmp_path / "f") == snapshot(files)
    assert {name: kept[3] for name, kept in snapshot(tmp_path / "t").items()} == {
        b"-work": b"",
        b"-work/s.jsonl": b"{}\n",
    }


def test_transcripts_get_fresh_mtimes_and_files_keep_theirs(tmp_path: Path) -> None:
    """The CLI deletes transcripts whose mtime is over 30 days old (facts: claude-code 4)."""
    for part in ("files", "talk"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "x.jsonl").write_text("{}")
        os.utime(tmp_path / part / "x.jsonl", (1_000_000_000, 1_000_000_000))
    (tmp_path / "now").touch()
    pack([Part(tmp_path / "files", ""), Part(tmp_path / "talk", TRANSCRIPT_PREFIX)], tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "f", TRANSCRIPT_PREFIX: tmp_path / "t"})
    assert (tmp_path / "f" / "x.jsonl").stat().st_mtime == 1_000_000_000
    assert (tmp_path / "t" / "x.jsonl").stat().st_mtime >= (tmp_path / "now").stat().st_mtime


def test_set_user_id_is_never_carried(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "tool").write_text("x")
    (tmp_path / "tree" / "tool").chmod(0o6755)
    pack([Part(tmp_path / "tree", "")], tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "again"})
    assert (tmp_path / "again" / "tool").stat().st_mode & 0o7777 == 0o755


def test_a_strangers_zip_gets_plain_modes(forge: Any, tmp_path: Path) -> None:
    path = forge(("tool", b"x", 0o106777), ("text", b"x", 0o100200), ("d/", b"", 0o041777), ("d/in", b"x"))
    unpack(path, {"": tmp_path / "new"}, profile=UPLOAD)
    modes = {
        name: (tmp_path / "new" / name).stat().st_mode & 0o7777 for name in ("tool", "text", "d", "d/in")
    }
    assert modes == {"tool": 0o755, "text": 0o644, "d": 0o755, "d/in": 0o644}


def test_other_tools_zips_are_read(tmp_path: Path) -> None:
    """Streamed entries (data descriptors), zip64 without need, a comment, names that only imply directories."""
    with (
        (tmp_path / "a.zip").open("wb") as raw,
        zipfile.ZipFile(Pipe(raw), "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("a/b/c.txt", b"hello " * 1000)
        with archive.open("wide.txt", "w", force_zip64=True) as wide:
            wide.write(b"wide")
        archive.comment = b"made by hand"
    unpack(tmp_path / "a.zip", {"": tmp_path / "new"}, profile=UPLOAD)
    assert (tmp_path / "new/a/b/c.txt").read_bytes() == b"hello " * 1000
    assert (tmp_path / "new/wide.txt").read_bytes() == b"wide"


class Pipe:
    """A target that cannot seek."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, chunk: bytes) -> int:
        return int(self._file.write(chunk))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
def test_a_zip_of_info_zip_is_read(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / "\u00e9.txt").write_text("x" * 500)
    (root / "link").symlink_to("d/\u00e9.txt")
    subprocess.run(["zip", "-qry", tmp_path / "a.zip", "."], cwd=root, check=True)
    unpack(tmp_path / "a.zip", {"": tmp_path / "new"}, profile=UPLOAD)
    assert (tmp_path / "new" / "link").read_text() == "x" * 500


def test_a_target_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    pack([Part(tmp_path / "tree", "")], tmp_path / "a.zip")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "a.zip", {TRANSCRIPT_PREFIX: tmp_path / "fresh", "": tmp_path / "busy"})
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.zip", "busy", "tree"]
    assert (tmp_path / "busy" / "mine").read_text() == "mine"
