"""A large file that grew keeps the blocks that it had."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.archive.workspaces import MIB, Workspace, contents, transcript_line

from overnight.archive import pack

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
