"""Where an archive can go, besides a file: into a stream, or to one who has its base."""

import io
import os
from pathlib import Path

import pytest
from tests.archive.workspaces import MIB, Workspace, contents, transcript_line

from overnight.archive import ArchiveRefused, Base, Caps, Delta, Range, pack


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


def assembled(delta: Delta, base: Path) -> bytes:
    whole = io.BytesIO()
    with base.open("rb") as file:
        delta.write_to(whole, file)
    return whole.getvalue()


@pytest.fixture
def grown(workspace: Workspace) -> Workspace:
    """Packed; then a log of many blocks grew, and a file is new."""
    for number in range(20):
        (workspace.tree / str(number)).write_bytes(os.urandom(10_000))
    (workspace.tree / "log").write_bytes(b"".join(map(transcript_line, range(30_000))))
    workspace.pack()
    with (workspace.tree / "log").open("ab") as file:
        file.write(transcript_line(0))
    (workspace.tree / "new").write_bytes(b"new")
    return workspace


def test_who_has_the_base_is_given_only_what_is_new(grown: Workspace, tmp_path: Path) -> None:
    base, delta = grown.base(), Delta()
    assert base is not None
    told = pack(grown.parts, delta, base=base, record=tmp_path / "delta.record", exclude=())
    packed = grown.pack()
    assert assembled(delta, base.archive) == grown.archive.read_bytes()
    assert (
        sum(len(piece) for piece in delta.pieces if isinstance(piece, bytes)) == told.fresh_bytes < 1.1 * MIB
    )
    assert told.size == packed.size > 5 * MIB
    assert (told.sha256, told.directory_sha256) == (None, packed.directory_sha256)
    assert (
        len([piece for piece in delta.pieces if isinstance(piece, Range)]) == 2
    )  # what is as it was, and the blocks


def test_its_record_serves_the_next_pack(grown: Workspace, tmp_path: Path) -> None:
    base, delta, after = grown.base(), Delta(), Base(tmp_path / "delta.zip", tmp_path / "delta.record")
    assert base is not None
    pack(grown.parts, delta, base=base, record=after.record, exclude=())
    after.archive.write_bytes(assembled(delta, base.archive))
    again = pack(grown.parts, tmp_path / "again.zip", base=after, exclude=())
    assert (again.reused_entries, again.entries) == (22, 22)
    assert contents(tmp_path / "again.zip") == contents(after.archive)


def test_without_a_base_all_is_new(grown: Workspace, tmp_path: Path) -> None:
    delta = Delta()
    pack(grown.parts, delta, exclude=())
    pack(grown.parts, tmp_path / "full.zip", exclude=())
    assert delta.pieces == [(tmp_path / "full.zip").read_bytes()]


def test_a_base_that_was_cut_is_noticed_when_it_is_put_together(grown: Workspace) -> None:
    base, delta = grown.base(), Delta()
    assert base is not None
    pack(grown.parts, delta, base=base, exclude=())
    os.truncate(base.archive, 1000)
    with pytest.raises(EOFError):
        assembled(delta, base.archive)


def test_what_is_taken_from_the_base_counts_too(grown: Workspace) -> None:
    with pytest.raises(ArchiveRefused):
        pack(grown.parts, Delta(), base=grown.base(), limits=Caps(archive_bytes=5 * MIB), exclude=())
