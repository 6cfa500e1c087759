"""Whatever was done to a tree: a pack upon a base holds what a full pack would."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.archive.workspaces import Workspace, contents, has_no_dead_bytes

from overnight.archive import Base, Check, Delta, pack, unchanged

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]


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


def assembled(delta: Delta, base: Base | None) -> bytes:
    whole = io.BytesIO()
    delta.write_to(whole, io.BytesIO(base.archive.read_bytes() if base else b""))
    return whole.getvalue()


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
            delta, base = Delta(), workspace.base()
            pack(workspace.parts, delta, base=base, check=check, exclude=())
            workspace.pack(check=check)
            assert assembled(delta, base) == workspace.archive.read_bytes()
            assert snapshot(workspace.restored()) == snapshot(workspace.tree)
            full = Path(scratch) / "full.zip"
            pack(workspace.parts, full, exclude=())
            assert contents(workspace.archive) == contents(full)
            assert has_no_dead_bytes(workspace.archive)
            assert unchanged(workspace.record, workspace.parts, ())
