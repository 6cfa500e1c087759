"""What every archive store promises."""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.s3_server import new_bucket, s3_server
from tests.supabase_server.app import storage_server
from tests.supabase_server.bucket import SECRET, Project

from overnight.adapters.directory import DirectoryArchives
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.s3 import s3_archives
from overnight.adapters.supabase import Access, supabase_archives
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.ports import ArchiveConflict, ArchiveMissing, ArchiveStore, StoredArchive

REAL_PROJECT = (
    ["supabase-real"]
    if {"OVERNIGHT_TEST_SUPABASE_URL", "OVERNIGHT_TEST_SUPABASE_KEY"} <= os.environ.keys()
    else []
)
"""Without them the summary of the test run says so (tests/conftest.py)."""
SESSION = "claude-code/6f1c2f5e-8a53-4d0e-9c61-1f6f2f1f6b11"
FIRST, SECOND, ALIAS = f"{SESSION}/job-1.1.zip", f"{SESSION}/job-2.1.zip", f"{SESSION}.zip"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["memory", "directory", "s3", "supabase", *REAL_PROJECT])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArchiveStore]:
    match request.param:
        case "memory":
            yield MemoryArchives(SystemClock())
        case "directory":
            yield DirectoryArchives(tmp_path / "store")
        case "s3":
            url = request.getfixturevalue("s3_url")
            yield s3_archives(new_bucket(url, SystemEntropy().session_id()))
        case "supabase":
            async with on_the_stand_in(tmp_path) as archives:
                yield archives
        case _:
            async with on_the_real_project(tmp_path) as archives:
                yield archives


@asynccontextmanager
async def on_the_stand_in(tmp_path: Path) -> AsyncIterator[ArchiveStore]:
    (tmp_path / "bucket").mkdir()
    async with (
        storage_server(Project(tmp_path / "bucket")) as server,
        supabase_archives(
            Access(url=server.url, key=SECRET),
            notes=tmp_path / "notes",
            clock=SystemClock(),
            entropy=SystemEntropy(),
        ) as archives,
    ):
        yield archives


@asynccontextmanager
async def on_the_real_project(tmp_path: Path) -> AsyncIterator[ArchiveStore]:
    """In a folder of its own, which is emptied afterwards."""
    prefix = f"overnight-test-{SystemEntropy().session_id()}"
    access = Access(
        url=os.environ["OVERNIGHT_TEST_SUPABASE_URL"],
        key=os.environ["OVERNIGHT_TEST_SUPABASE_KEY"],
        bucket=os.environ.get("OVERNIGHT_TEST_SUPABASE_BUCKET", "content"),
        prefix=prefix,
    )
    clock, entropy = SystemClock(), SystemEntropy()
    async with supabase_archives(access, notes=tmp_path / "notes", clock=clock, entropy=entropy) as archives:
        try:
            yield archives
        finally:
            for left in await archives.listing(""):
                await archives.delete(left.name)


@pytest.fixture
def made(tmp_path: Path) -> Callable[[bytes], Path]:
    """A new file outside the store, ready to be put."""
    count = iter(range(1000))

    def make(content: bytes) -> Path:
        path = tmp_path / f"made-{next(count)}.zip"
        path.write_bytes(content)
        return path

    return make


Made = Callable[[bytes], Path]


async def fetched(store: ArchiveStore, name: str, tmp_path: Path) -> bytes:
    await store.fetch(name, tmp_path / "fetched")
    return (tmp_path / "fetched").read_bytes()


async def names(store: ArchiveStore, prefix: str) -> list[str]:
    return [archive.name for archive in await store.listing(prefix)]


async def test_what_was_put_is_fetched(store: ArchiveStore, made: Made, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    expected = StoredArchive(name=FIRST, size=3 << 20, sha256=hashlib.sha256(content).hexdigest())
    assert await store.put(FIRST, made(content)) == expected
    assert await store.fetch(FIRST, tmp_path / "t") == expected
    assert (tmp_path / "t").read_bytes() == content


@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 1 << 20), (1, 1000), (1, (1 << 20) - 1), ((1 << 20) - 1, 1)]
)
async def test_a_part_can_be_read_alone(store: ArchiveStore, made: Made, start: int, length: int) -> None:
    content = os.urandom(1 << 20)
    await store.put(FIRST, made(content))
    assert await store.part(FIRST, start=start, length=length) == content[start : start + length]


async def test_of_an_archive_that_is_too_short_fewer_bytes_come(store: ArchiveStore, made: Made) -> None:
    await store.put(FIRST, made(b"short"))
    with contextlib.suppress(OSError):
        assert await store.part(FIRST, start=2, length=10) == b"ort"


async def test_what_is_missing_has_no_part(store: ArchiveStore) -> None:
    with pytest.raises(ArchiveMissing):
        await store.part(FIRST, start=5, length=5)


async def test_fetching_replaces_what_stood_there(store: ArchiveStore, made: Made, tmp_path: Path) -> None:
    (tmp_path / "fetched").write_bytes(b"longer than the archive")
    await store.put(FIRST, made(b"one"))
    assert await fetched(store, FIRST, tmp_path) == b"one"


@pytest.mark.parametrize("steps", [0, 1, 3, 10, 100])
async def test_a_cancelled_fetch_has_ended_and_leaves_nothing_half(
    store: ArchiveStore, made: Made, tmp_path: Path, steps: int
) -> None:
    content = os.urandom(5 << 20)
    await store.put(FIRST, made(content))
    target = tmp_path / "scratch" / "t"
    target.parent.mkdir()
    fetching = asyncio.create_task(store.fetch(FIRST, target))
    for _ in range(steps):
        await asyncio.sleep(0)
    fetching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fetching
    for left in target.parent.iterdir():
        assert (left, left.read_bytes()) == (target, content)


async def test_the_same_bytes_again_are_fine_and_others_are_a_conflict(
    store: ArchiveStore, made: Made, tmp_path: Path
) -> None:
    first = await store.put(FIRST, made(b"one"))
    assert await store.put(FIRST, made(b"one")) == first
    other = made(b"other")
    with pytest.raises(ArchiveConflict):
        await store.put(FIRST, other)
    assert other.read_bytes() == b"other"
    assert await fetched(store, FIRST, tmp_path) == b"one"


async def test_of_two_at_once_with_different_bytes_one_wins(
    store: ArchiveStore, made: Made, tmp_path: Path
) -> None:
    contents = [bytes([n]) * 10_000 for n in range(8)]
    done = await asyncio.gather(*(store.put(FIRST, made(c)) for c in contents), return_exceptions=True)
    winners = [result for result in done if isinstance(result, StoredArchive)]
    assert len(winners) == 1
    assert all(isinstance(result, StoredArchive | ArchiveConflict) for result in done)
    assert hashlib.sha256(await fetched(store, FIRST, tmp_path)).hexdigest() == winners[0].sha256


async def test_what_is_handed_out_cannot_change_what_is_kept(
    store: ArchiveStore, made: Made, tmp_path: Path
) -> None:
    source = made(b"one")
    await store.put(FIRST, source)
    source.write_bytes(b"changed at the source")
    await store.fetch(FIRST, tmp_path / "t")
    with (tmp_path / "t").open("r+b") as file:
        file.write(b"two")
    assert await fetched(store, FIRST, tmp_path) == b"one"


async def test_a_missing_archive_is_said_and_leaves_nothing(store: ArchiveStore, tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing):
        await store.fetch(FIRST, tmp_path / "t")
    with pytest.raises(ArchiveMissing):
        await store.publish(FIRST, ALIAS)
    assert not (tmp_path / "t").exists()
    assert await names(store, "") == []


async def test_the_alias_shows_the_archive_published_last(
    store: ArchiveStore, made: Made, tmp_path: Path
) -> None:
    await store.put(FIRST, made(b"one"))
    await store.put(SECOND, made(b"two"))
    for name, content in ((FIRST, b"one"), (SECOND, b"two"), (SECOND, b"two"), (FIRST, b"one")):
        await store.publish(name, ALIAS)
        assert await fetched(store, ALIAS, tmp_path) == content
    assert await fetched(store, SECOND, tmp_path) == b"two"


async def test_the_alias_outlives_the_archive_it_shows(
    store: ArchiveStore, made: Made, tmp_path: Path
) -> None:
    await store.put(FIRST, made(b"one"))
    await store.publish(FIRST, ALIAS)
    await store.delete(FIRST)
    assert await fetched(store, ALIAS, tmp_path) == b"one"


async def test_deleting_is_idempotent_and_frees_the_name(
    store: ArchiveStore, made: Made, tmp_path: Path
) -> None:
    await store.put(FIRST, made(b"one"))
    await store.delete(FIRST)
    await store.delete(FIRST)
    with pytest.raises(ArchiveMissing):
        await store.fetch(FIRST, tmp_path / "t")
    await store.put(FIRST, made(b"other"))
    assert await fetched(store, FIRST, tmp_path) == b"other"


async def test_names_are_sorted_and_begin_with_the_prefix(store: ArchiveStore, made: Made) -> None:
    for name in (SECOND, FIRST, "claude-code/other/x.zip"):
        await store.put(name, made(name.encode()))
    await store.publish(SECOND, ALIAS)
    assert await names(store, f"{SESSION}/") == [FIRST, SECOND]
    assert await names(store, SESSION) == sorted([ALIAS, FIRST, SECOND])
    assert await names(store, f"{SESSION}/job-2") == [SECOND]
    assert await names(store, "nothing/here") == []
    assert len(await names(store, "")) == 4


async def test_a_listing_tells_size_and_time(store: ArchiveStore, made: Made) -> None:
    source = made(b"1234")
    os.utime(source, (1_000_000, 1_000_000))  # when it was written is not when it was stored
    before = time.time()
    await store.put(FIRST, source)
    [listed] = await store.listing(SESSION)
    assert (listed.name, listed.size) == (FIRST, 4)
    assert before - 2 <= listed.stored_at <= time.time() + 2


class Growing:
    """A file that gets its content in steps, as fast as it is asked for."""

    def __init__(self, path: Path, steps: list[bytes], failure: Exception | None = None) -> None:
        self.path = path
        self._steps = steps
        self._failure = failure

    async def beyond(self, size: int) -> tuple[int, bool]:
        while self._steps and self.path.stat().st_size <= size:
            with self.path.open("ab") as file:
                file.write(self._steps.pop(0))
        if not self._steps and self._failure is not None:
            raise self._failure
        return self.path.stat().st_size, not self._steps


async def test_a_file_may_grow_while_it_is_put(store: ArchiveStore, made: Made, tmp_path: Path) -> None:
    steps = [os.urandom(1 << 20) for _ in range(9)]
    growing = Growing(made(b""), list(steps))
    stored = await store.put(FIRST, growing.path, growth=growing)
    assert stored.size == 9 << 20
    assert await fetched(store, FIRST, tmp_path) == b"".join(steps)


async def test_a_file_whose_writing_breaks_is_not_stored(store: ArchiveStore, made: Made) -> None:
    growing = Growing(made(b""), [os.urandom(7 << 20), b"end"], RuntimeError("packing broke"))
    with pytest.raises(RuntimeError, match="packing broke"):
        await store.put(FIRST, growing.path, growth=growing)
    assert await names(store, "") == []


BAD_NAMES = [
    "", ".", "..", "/", "x", "/x.zip", "../x.zip", "a/../x.zip", "a//x.zip", "a/./x.zip", "a/.x.zip", "a.zip/x.zip",
    "a\\x.zip", "a/x.zip/", "x.zip\n", "\u00e9.zip", "a\0.zip", "x" * 300 + ".zip", ".incoming/x.zip", "a b.zip",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:12]))
async def test_other_names_are_refused(name: str, store: ArchiveStore, made: Made, tmp_path: Path) -> None:
    await store.put(FIRST, made(b"one"))
    with pytest.raises(ValueError, match="not a name"):
        await store.put(name, made(b"x"))
    with pytest.raises(ValueError, match="not a name"):
        await store.fetch(name, tmp_path / "t")
    with pytest.raises(ValueError, match="not a name"):
        await store.publish(FIRST, name)
    with pytest.raises(ValueError, match="not a name"):
        await store.delete(name)


@pytest.mark.parametrize("prefix", ["/", "..", "../", "a/../", ".incoming", "a//"])
async def test_other_prefixes_are_refused(prefix: str, store: ArchiveStore) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        await store.listing(prefix)


async def test_a_missing_source_is_an_error_and_stores_nothing(store: ArchiveStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await store.put(FIRST, tmp_path / "nothing")
    assert await names(store, "") == []
