"""What a session holds is told by the end of its archive: the rest stays where it is."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.memory_archives import MemoryArchives
from overnight.archive import ArchiveRefused, EntryMissing, Part, pack
from overnight.domain.job import ArchiveRef, Origin
from overnight.flows.sessions import LAST_BYTES, PIECE, listed, opened
from overnight.ports import ArchiveMissing

NAME = "claude-code/s/j.1.zip"


async def stored(world: Any, tree: Path) -> ArchiveRef:
    zipped = tree.with_suffix(".zip")
    pack([Part(tree, "")], zipped)
    put = await world.archives.put(NAME, zipped)
    return ArchiveRef(name=NAME, size=put.size, sha256=put.sha256, origin=Origin.RUN)


class Counting:
    """Counts what is fetched, and fetches nothing whole."""

    def __init__(self, archives: MemoryArchives) -> None:
        self._archives = archives
        self.fetched: list[int] = []

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        part = await self._archives.part(name, start=start, length=length)
        self.fetched.append(len(part))
        return part


@pytest.mark.parametrize(("files", "looks"), [(3, 1), (6_000, 2)])
async def test_only_the_directory_is_fetched(world: Any, tmp_path: Path, files: int, looks: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(bytes(range(256)) * 8192)
    for number in range(files):
        (tree / f"a-file-with-a-long-name-{number:06}").touch()
    archive = await stored(world, tree)
    counting: Any = Counting(world.archives)
    listing = await listed(archive, archives=counting)
    assert len(listing.entries) == files + 1
    assert len(counting.fetched) == looks
    assert counting.fetched[0] == min(LAST_BYTES, archive.size)


async def test_an_archive_that_is_gone_is_missing(world: Any) -> None:
    gone = ArchiveRef(name=NAME, size=99, sha256="ab" * 32, origin=Origin.RUN)
    with pytest.raises(ArchiveMissing):
        await listed(gone, archives=world.archives)


async def test_an_archive_that_is_shorter_than_it_was_ends_the_look(world: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    archive = await stored(world, tree)
    with pytest.raises(OSError, match="not as long as it was"):
        await listed(replace(archive, size=archive.size + LAST_BYTES), archives=world.archives)


async def test_of_one_file_the_directory_and_itself_are_fetched(world: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    contents = {
        "large": os.urandom(3 * PIECE),
        "small": b"small",
        "empty": b"",
        "wanted": os.urandom(PIECE + 5),
    }
    for name, content in contents.items():
        (tree / name).write_bytes(content)
    archive = await stored(world, tree)
    for name, content in contents.items():
        counting: Any = Counting(world.archives)
        with await opened(archive, name, archives=counting, scratch=tmp_path, room=1 << 30) as found:
            assert b"".join(found) == content
        assert sum(counting.fetched) < LAST_BYTES + len(content) * 1.01 + 1000
        assert max(counting.fetched) <= PIECE
    with pytest.raises(EntryMissing):
        await opened(archive, "nothing", archives=world.archives, scratch=tmp_path, room=1 << 30)
    left = await asyncio.to_thread(lambda: [path.name for path in tmp_path.iterdir()])
    assert left == ["tree"], "nothing is left in the scratch space"


async def test_a_file_that_is_damaged_in_the_store_is_not_served(world: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(os.urandom(1000))
    (tree / "b").write_bytes(os.urandom(1000))
    archive = await stored(world, tree)
    content = world.archives._contents[NAME]
    for at in (30, 500):  # its name in the local header, its content
        damaged = bytearray(content)
        damaged[at] ^= 1
        world.archives._contents[NAME] = bytes(damaged)
        with pytest.raises(ArchiveRefused):
            await read(world, archive, "a", tmp_path)
        assert len(await read(world, archive, "b", tmp_path)) == 1000


async def read(world: Any, archive: ArchiveRef, name: str, scratch: Path) -> bytes:
    with await opened(archive, name, archives=world.archives, scratch=scratch, room=1 << 30) as found:
        return b"".join(found)
