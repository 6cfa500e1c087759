"""When the disk fails or is full: nothing acknowledged is lost, nothing failed is retried."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.writer import CHECKPOINT_PAGES
from overnight.ports import StorageBusy, StorageFailed, StorageFull

PATIENCE = 10.0
VFS_NAME = "faulty"


@dataclass
class Faults:
    """Which calls fail, by the end of the file's name."""

    sync: str | None = None
    write: str | None = None

    def check(self, ending: str | None, name: str) -> None:
        if ending is not None and name.endswith(ending):
            raise apsw.IOError("injected")


class FaultyFile(apsw.VFSFile):
    def __init__(self, faults: Faults, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._faults = faults
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xSync(self, flags: int) -> None:
        self._faults.check(self._faults.sync, self._name)
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._faults.check(self._faults.write, self._name)
        super().xWrite(data, offset)


class FaultyVfs(apsw.VFS):
    def __init__(self, faults: Faults) -> None:
        super().__init__(VFS_NAME, "")
        self._faults = faults

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> FaultyFile:
        return FaultyFile(self._faults, name, flags)


@pytest.fixture
def faults() -> Iterator[Faults]:
    faults = Faults()
    vfs = FaultyVfs(faults)
    yield faults
    vfs.unregister()


def add(name: str, size: int = 0) -> Callable[[apsw.Connection], None]:
    def work(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO requests VALUES (?, zeroblob(?))", (name, size))

    return work


def names(connection: apsw.Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute("SELECT job_id FROM requests ORDER BY 1")]


async def found_after(data_dir: Path) -> list[str]:
    """What the next process finds, on a disk that works."""
    async with open_database(data_dir) as database:
        checked = await database.read(lambda connection: connection.pragma("integrity_check"))
        assert checked == "ok"
        return await database.read(names)


@pytest.mark.parametrize("fault", [Faults(sync="-wal"), Faults(write="-wal")], ids=["sync", "write"])
async def test_after_a_failed_commit_nothing_more_is_written(
    tmp_path: Path, faults: Faults, fault: Faults
) -> None:
    """A second fsync could succeed on pages that the kernel dropped after the first: it is never tried."""
    async with open_database(tmp_path, vfs=VFS_NAME) as database:
        await database.write(add("acknowledged"))
        faults.sync, faults.write = fault.sync, fault.write
        batch = await asyncio.gather(
            *(database.write(add(f"lost {n}")) for n in range(5)), return_exceptions=True
        )
        assert [type(result) for result in batch] == [StorageFailed] * 5
        async with asyncio.timeout(PATIENCE):
            await database.failed()

        faults.sync = faults.write = None
        with pytest.raises(StorageFailed, match="idempotency key"):
            await database.write(add("later"))
        assert await database.read(names) == ["acknowledged"]
    assert "acknowledged" in await found_after(tmp_path)


async def test_a_failed_checkpoint_keeps_the_answers_that_were_given(tmp_path: Path, faults: Faults) -> None:
    async with open_database(tmp_path, vfs=VFS_NAME) as database:
        faults.sync = "overnight.db"
        await database.write(add("large", size=CHECKPOINT_PAGES * 4096))
        async with asyncio.timeout(PATIENCE):
            await database.failed()
        faults.sync = None
        with pytest.raises(StorageFailed):
            await database.write(add("later"))
    assert await found_after(tmp_path) == ["large"]


async def test_a_full_disk_refuses_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await limit_pages(database, 60)
        await database.write(add("small"))
        before = await database.read(names)
        with pytest.raises(StorageFull, match="nothing was written"):
            await database.write(add("large", size=1_000_000))
        assert await database.read(names) == before
        await limit_pages(database, 100_000)
        await database.write(add("large", size=1_000_000))
    assert await found_after(tmp_path) == ["large", "small"]


async def limit_pages(database: Database, pages: int) -> None:
    await database.write(lambda connection: connection.pragma("max_page_count", pages))


async def test_a_file_that_another_program_holds_refuses_and_goes_on(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await database.write(lambda connection: connection.set_busy_timeout(1))
        outside = apsw.Connection(str(tmp_path / "overnight.db"))
        outside.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy, match="nothing was written"):
            await database.write(add("one"))
        outside.execute("ROLLBACK")
        await database.write(add("two"))
        outside.close()
    assert await found_after(tmp_path) == ["two"]
