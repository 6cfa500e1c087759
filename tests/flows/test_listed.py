"""What a session holds is told by the end of its archive: the rest stays where it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.memory_archives import MemoryArchives
from overnight.archive import Part, pack
from overnight.domain.job import ArchiveRef, Origin
from overnight.flows.sessions import LAST_BYTES, listed
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

    async def end(self, name: str, *, start: int) -> bytes:
        end = await self._archives.end(name, start=start)
        self.fetched.append(len(end))
        return end


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
