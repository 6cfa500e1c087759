"""Supabase Storage with all that goes wrong there, on the stand-in (tests/supabase_server)."""

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.supabase_server.app import Server, storage_server
from tests.supabase_server.bucket import (
    ALL,
    ANON,
    CHUNK,
    EXPIRED,
    SECRET,
    SERVICE,
    Answer,
    Plain,
    Project,
    false_miss,
    missing,
)
from tests.supabase_server.wire import Wire, wired

from overnight.adapters.supabase import Access, SupabaseArchives, supabase_archives
from overnight.adapters.supabase.patience import Patience, Unreachable
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.ports import ArchiveConflict, ArchiveDenied, ArchiveMissing, ArchiveTooLarge

NAME, ALIAS = "claude-code/session/job-1.1.zip", "claude-code/session.zip"
KEY = NAME
ROOM = 256 * 1024
"""More than heads and the rest of a broken block come to."""


@dataclass
class Place:
    """A project behind a wire, and what lies on this machine."""

    server: Server
    wire: Wire
    directory: Path

    @property
    def project(self) -> Project:
        return self.server.project

    def archives(self, key: str = SECRET) -> AbstractAsyncContextManager[SupabaseArchives]:
        return opened(self.wire.url, key, self.directory / "notes")

    def file(self, size: int, content: bytes | None = None) -> Path:
        path = self.directory / "made.zip"
        path.write_bytes(os.urandom(size) if content is None else content)
        return path

    def holds(self, key: str, path: Path) -> bool:
        return self.project.objects[key].path.read_bytes() == path.read_bytes()

    def left_over(self) -> list[str]:
        return [key for key in self.project.objects if "/.incoming/" in key]


@asynccontextmanager
async def opened(url: str, key: str, notes: Path) -> AsyncIterator[SupabaseArchives]:
    # The delays as they are, at a fiftieth of their length.
    patience = Patience(chance=lambda: 1.0, pause=lambda seconds: asyncio.sleep(seconds / 50))
    async with supabase_archives(
        Access(url=url, key=key),
        notes=notes,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        patience=patience,
    ) as archives:
        yield archives


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "bucket").mkdir()
    async with storage_server(Project(tmp_path / "bucket")) as server, wired(server.url) as wire:
        yield Place(server, wire, tmp_path)


@pytest.fixture
async def archives(place: Place) -> AsyncIterator[SupabaseArchives]:
    async with place.archives() as opened_archives:
        yield opened_archives


class Told:
    """The Growth of a file that ends when `ending` is set. Its first `size` bytes are there at once."""

    def __init__(self, path: Path, size: int, rest: bytes, failure: Exception | None = None) -> None:
        self.path = path
        self.ending = asyncio.Event()
        self._size = size
        self._rest = rest
        self._failure = failure

    async def beyond(self, size: int) -> tuple[int, bool]:
        if size < self._size:
            return self._size, False
        await self.ending.wait()
        if self._failure is not None:
            raise self._failure
        if self._rest:
            with self.path.open("ab") as file:
                file.write(self._rest)
            self._rest = b""
        return self.path.stat().st_size, True


# --- uploads that break ---


async def test_an_upload_broken_three_times_goes_on_where_it_was(
    place: Place, archives: SupabaseArchives
) -> None:
    source = place.file(5 * CHUNK + 12345)
    place.wire.cuts_up = [CHUNK // 2, 2 * CHUNK + CHUNK // 3, 4 * CHUNK]
    stored = await archives.put(NAME, source)
    assert place.wire.cuts_up == []
    assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert place.holds(KEY, source)
    assert place.wire.up < stored.size + 3 * (CHUNK + ROOM)
    assert sum(place.server.received) < stored.size + 3 * ROOM
    assert place.left_over() == []


async def test_an_upload_that_never_gets_anywhere_ends_and_the_next_call_goes_on(
    place: Place, archives: SupabaseArchives
) -> None:
    source = place.file(3 * CHUNK)
    for _ in range(20):
        place.server.faults.queued.append(("PATCH", "/upload", Plain(503, "down")))
    with pytest.raises(Unreachable):
        await archives.put(NAME, source)
    assert [method for method, _ in place.server.requests].count("PATCH") == 7
    place.server.faults.queued.clear()
    await archives.put(NAME, source)
    assert [method for method, path in place.server.requests if path == "/upload/resumable"].count(
        "POST"
    ) == 1


async def test_a_new_process_goes_on_with_what_a_killed_one_has_sent(place: Place) -> None:
    source = place.file(6 * CHUNK)
    place.wire.uplink = 40e6
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUTS, place.wire.url, str(source), str(place.directory / "notes")
    )
    try:
        async with asyncio.timeout(60):
            while place.wire.up < 3.5 * CHUNK:  # noqa: ASYNC110 - the wire is no event
                await asyncio.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    place.wire.uplink = None
    async with place.archives() as second:
        await second.put(NAME, source)
    assert place.holds(KEY, source)
    assert sum(place.server.received) < 6 * CHUNK + 2 * ROOM
    assert [path for method, path in place.server.requests if method == "POST"].count(
        "/upload/resumable"
    ) == 1
    assert [*(place.directory / "notes").iterdir()] == []


PUTS = f"""
import asyncio, sys
from pathlib import Path
from overnight.adapters.supabase import Access, supabase_archives
from overnight.adapters.system import SystemClock, SystemEntropy

async def main(url, source, notes):
    access = Access(url=url, key={SECRET!r})
    async with supabase_archives(access, notes=notes, clock=SystemClock(), entropy=SystemEntropy()) as archives:
        await archives.put({NAME!r}, source)

asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
"""


async def test_another_file_under_the_same_name_is_never_mixed_with_the_broken_one(
    place: Place, archives: SupabaseArchives
) -> None:
    place.project.s3_backend = True  # whose etag would not show it
    broken_off = asyncio.create_task(archives.put(NAME, place.file(4 * CHUNK)))
    place.wire.uplink = 60e6
    while place.wire.up < 2 * CHUNK:  # noqa: ASYNC110 - the wire is no event
        await asyncio.sleep(0.001)
    broken_off.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await broken_off
    place.wire.uplink = None
    other = place.file(4 * CHUNK)
    await archives.put(NAME, other)
    assert place.holds(KEY, other)


async def test_an_upload_that_the_server_forgot_begins_anew(place: Place, archives: SupabaseArchives) -> None:
    source = place.file(3 * CHUNK)
    place.server.faults.queued.append(("PATCH", "/upload", Plain(404, "not found")))
    await archives.put(NAME, source)
    assert place.holds(KEY, source)


@pytest.mark.parametrize("note", [b"", b"{", b'{"upload": "x"}', b"[]", b"\xff"])
async def test_a_damaged_note_is_no_note(place: Place, archives: SupabaseArchives, note: bytes) -> None:
    source = place.file(2 * CHUNK)
    name = f"{hashlib.sha256(KEY.encode()).hexdigest()[:32]}.json"
    (place.directory / "notes" / name).write_bytes(note)
    await archives.put(NAME, source)
    assert place.holds(KEY, source)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/object/content"), ("POST", "/object/move"), ("PATCH", "/upload"), ("POST", "/upload")],
)
@pytest.mark.parametrize("size", [1000, 2 * CHUNK])
async def test_an_answer_that_is_lost_changes_nothing(
    place: Place, archives: SupabaseArchives, method: str, path: str, size: int
) -> None:
    source = place.file(size)
    place.server.faults.lose_answers.append((method, path))
    await archives.put(NAME, source)
    assert place.holds(KEY, source)
    assert place.left_over() == []


# --- uploads while the file is written ---


async def test_what_is_written_goes_out_while_the_rest_is_packed(
    place: Place, archives: SupabaseArchives
) -> None:
    growing = Told(place.file(3 * CHUNK), 3 * CHUNK, b"the end")
    putting = asyncio.create_task(archives.put(NAME, growing.path, growth=growing))
    async with asyncio.timeout(20):
        while sum(place.server.received) < 2 * CHUNK:  # noqa: ASYNC110 - the server is no event
            await asyncio.sleep(0.005)
    assert not putting.done()
    growing.ending.set()
    stored = await putting
    assert stored.size == 3 * CHUNK + 7
    assert place.holds(KEY, growing.path)


@pytest.mark.parametrize("rest", [0, 1, CHUNK, CHUNK - 1, CHUNK + 1])
async def test_the_length_is_told_with_the_last_part(
    place: Place, archives: SupabaseArchives, rest: int
) -> None:
    growing = Told(place.file(2 * CHUNK), 2 * CHUNK, bytes(rest))
    growing.ending.set()
    assert (await archives.put(NAME, growing.path, growth=growing)).size == 2 * CHUNK + rest
    assert place.holds(KEY, growing.path)


async def test_a_server_that_wants_the_length_first_gets_it(place: Place) -> None:
    place.project.deferred = False
    async with place.archives() as archives:
        growing = Told(place.file(2 * CHUNK), 2 * CHUNK, b"x")
        growing.ending.set()
        await archives.put(NAME, growing.path, growth=growing)
    assert place.holds(KEY, growing.path)


async def test_an_upload_that_did_not_arrive_is_sent_again_with_its_length(
    place: Place, archives: SupabaseArchives
) -> None:
    growing = Told(place.file(2 * CHUNK), 2 * CHUNK, b"x")
    growing.ending.set()
    place.server.faults.queued.append(("GET", "/object/info", missing()))
    await archives.put(NAME, growing.path, growth=growing)
    assert place.holds(KEY, growing.path)


async def test_packing_that_breaks_leaves_nothing_on_the_server(
    place: Place, archives: SupabaseArchives
) -> None:
    growing = Told(place.file(3 * CHUNK), 3 * CHUNK, b"", RuntimeError("packing broke"))
    growing.ending.set()
    with pytest.raises(RuntimeError, match="packing broke"):
        await archives.put(NAME, growing.path, growth=growing)
    assert (place.project.objects, place.project.uploads) == ({}, {})
    assert [*(place.directory / "notes").iterdir()] == []


async def test_memory_stays_flat(place: Place, archives: SupabaseArchives) -> None:
    source = place.directory / "large.zip"
    with source.open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    tracemalloc.start()
    try:
        await archives.put(NAME, source)
        await archives.fetch(NAME, place.directory / "back.zip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (place.directory / "back.zip").stat().st_size == source.stat().st_size
    assert peak < 30 * 1024 * 1024  # of the client, the wire and the server together


# --- what the server has ---


async def test_no_cache_may_keep_an_archive(place: Place, archives: SupabaseArchives) -> None:
    await archives.put(NAME, place.file(100))
    await archives.put(ALIAS, place.file(2 * CHUNK))
    assert [made.cache_control for made in place.project.objects.values()] == ["no-store", "max-age=0"]


async def test_a_read_never_gets_what_a_cache_kept(place: Place, archives: SupabaseArchives) -> None:
    place.server.faults.cached = True
    target = place.directory / "t"
    for number, content in enumerate((b"one", b"two")):
        name = f"claude-code/session/{number}.zip"
        await archives.put(name, place.file(0, content))
        await archives.publish(name, ALIAS)
        await archives.fetch(ALIAS, target)
        assert target.read_bytes() == content


@pytest.mark.parametrize("s3_backend", [False, True])
@pytest.mark.parametrize("size", [1000, 20 * 1024 * 1024])
async def test_the_same_bytes_are_known_without_a_hash_of_them(
    place: Place, archives: SupabaseArchives, s3_backend: bool, size: int
) -> None:
    place.project.s3_backend = s3_backend
    source = place.file(size)
    await archives.put(NAME, source)
    await archives.put(NAME, source)
    with pytest.raises(ArchiveConflict):
        await archives.put(NAME, place.file(size))
    with pytest.raises(ArchiveConflict):
        await archives.put(NAME, place.file(size + 1))
    assert place.left_over() == []


async def test_two_processes_that_put_one_name_have_one_winner(place: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(place.archives()) for _ in range(6)]
        sources = [place.directory / f"{number}.zip" for number in range(6)]
        for number, source in enumerate(sources):
            source.write_bytes(bytes([number]) * 5000)
        done = await asyncio.gather(
            *(worker.put(NAME, source) for worker, source in zip(workers, sources, strict=True)),
            return_exceptions=True,
        )
    assert sum(isinstance(result, ArchiveConflict) for result in done) == 5
    assert place.left_over() == []


async def test_a_listing_has_many_pages_and_all_depths(place: Place, archives: SupabaseArchives) -> None:
    await archives.put(NAME, place.file(10))
    made = place.project.objects[KEY]
    names = [f"claude-code/session/{number:05}.zip" for number in range(2500)]
    place.project.objects |= dict.fromkeys(names, made)
    place.project.objects["claude-code/.incoming/x.zip"] = made
    place.project.objects["claude-code/session/notes.txt"] = made
    place.project.objects["claude-code-too/session/x.zip"] = made
    assert [line.name for line in await archives.listing("claude-code/session/")] == sorted([NAME, *names])
    assert len(await archives.listing("")) == 2501


async def test_a_listing_of_one_session_does_not_read_the_others(
    place: Place, archives: SupabaseArchives
) -> None:
    for number in range(20):
        await archives.put(f"claude-code/session-{number}/a.1.zip", place.file(10))
    place.server.requests.clear()
    assert len(await archives.listing("claude-code/session-7")) == 1
    assert len(place.server.requests) == 2


# --- reads that fail ---


async def test_a_false_miss_and_a_broken_server_are_asked_again(
    place: Place, archives: SupabaseArchives
) -> None:
    await archives.put(NAME, source := place.file(1000))
    slow = Answer(544, "DatabaseTimeout", "timeout", "timeout")
    for path in ("/object/info", "/object/authenticated"):
        for error in (false_miss(), slow, Plain(502, "<html>")):
            place.server.faults.queued.append(("GET", path, error))
    await archives.fetch(NAME, place.directory / "t")
    assert (place.directory / "t").read_bytes() == source.read_bytes()


async def test_a_false_miss_that_stays_is_no_miss(place: Place, archives: SupabaseArchives) -> None:
    await archives.put(NAME, place.file(1000))
    place.server.faults.queued += [("GET", "/object/info", false_miss()) for _ in range(20)]
    with pytest.raises(Unreachable):
        await archives.fetch(NAME, place.directory / "t")


async def test_a_download_goes_on_after_a_reset(place: Place, archives: SupabaseArchives) -> None:
    await archives.put(NAME, source := place.file(20 * 1024 * 1024))
    place.wire.down, place.wire.cuts_down = 0, [5 << 20, 11 << 20, 15 << 20]
    await archives.fetch(NAME, place.directory / "t")
    assert place.wire.cuts_down == []
    assert (place.directory / "t").read_bytes() == source.read_bytes()
    # What was under way when the line was cut comes again; the whole object does not.
    assert place.wire.down < 2 * source.stat().st_size


async def test_bytes_that_are_not_those_that_were_put_are_an_error(
    place: Place, archives: SupabaseArchives
) -> None:
    await archives.put(NAME, place.file(1000))
    place.project.objects[KEY].path.write_bytes(bytes(1000))
    with pytest.raises(OSError, match="checksum"):
        await archives.fetch(NAME, place.directory / "t")
    assert not (place.directory / "t").exists()


# --- keys, rights and limits ---


@pytest.mark.parametrize("key", [SECRET, SERVICE, ANON])
async def test_a_key_of_any_kind_works(place: Place, key: str) -> None:
    async with place.archives(key) as archives:
        await archives.check()
        for size in (1000, 2 * CHUNK):
            name = f"claude-code/session/{size}.zip"
            await archives.put(name, place.file(size))
            await archives.publish(name, ALIAS)
            await archives.fetch(ALIAS, place.directory / "t")
            await archives.delete(name)
        assert [line.name for line in await archives.listing("")] == [ALIAS]


@pytest.mark.parametrize("key", ["sb_secret_of_another_project", EXPIRED, "wrong.jwt.key"])
async def test_a_wrong_key_is_said_everywhere_and_is_never_a_miss(place: Place, key: str) -> None:
    async with place.archives() as good:
        await good.put(NAME, place.file(100))
    async with place.archives(key) as archives:
        for attempt in (
            archives.check(),
            archives.put(ALIAS, place.file(100)),
            archives.put(ALIAS, place.file(2 * CHUNK)),
            archives.fetch(NAME, place.directory / "t"),
            archives.publish(NAME, ALIAS),
            archives.delete(NAME),
            archives.listing(""),
        ):
            with pytest.raises(ArchiveDenied, match="doctor") as refused:
                await attempt
            assert key not in str(refused.value)
    assert [*place.project.objects] == [KEY]


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("insert", "write"), ("update", "write"), ("select", "write"), ("delete", "delete")],
)
async def test_the_canary_names_the_right_that_lacks(place: Place, lacking: str, said: str) -> None:
    place.project.rights[ANON] = ALL - {lacking}
    async with place.archives(ANON) as archives:
        with pytest.raises(ArchiveDenied, match=f"does not let this key {said} "):
            await archives.check()


async def test_a_bucket_that_is_not_there_is_said(place: Place) -> None:
    place.project.bucket = "another"
    async with place.archives() as archives:
        with pytest.raises(ArchiveDenied, match="no bucket `content`"):
            await archives.check()


async def test_a_store_that_may_not_be_read_is_not_taken_for_an_empty_one(place: Place) -> None:
    async with place.archives() as good:
        await good.put(NAME, place.file(100))
    async with place.archives(ANON) as archives:
        with pytest.raises(ArchiveMissing):
            await archives.fetch(ALIAS, place.directory / "t")
        place.project.rights[ANON] = ALL - {"select"}
        with pytest.raises(ArchiveDenied):
            await archives.fetch(NAME, place.directory / "t")
        with pytest.raises(ArchiveDenied):
            await archives.publish(NAME, ALIAS)
    assert not (place.directory / "t").exists()


async def test_a_deletion_that_did_not_happen_is_an_error(place: Place) -> None:
    async with place.archives(ANON) as archives:
        await archives.put(NAME, place.file(100))
        place.project.rights[ANON] = ALL - {"delete"}
        with pytest.raises(ArchiveDenied, match="still there"):
            await archives.delete(NAME)
        place.project.rights[ANON] = ALL
        place.server.faults.mute.add("remove")
        with pytest.raises(Unreachable, match="still lists"):
            await archives.delete(NAME)


@pytest.mark.parametrize("limit", [4000, 50 * 1024 * 1024])
async def test_the_limit_is_known_before_anything_is_sent(place: Place, limit: int) -> None:
    place.project.largest = limit
    async with place.archives() as archives:
        assert archives.largest == limit
        source = place.directory / "large.zip"
        with source.open("wb") as file:
            file.truncate(limit + 1)
        with pytest.raises(ArchiveTooLarge) as refused:
            await archives.put(NAME, source)
    assert refused.value.limit == limit
    assert [method for method, _ in place.server.requests] == ["OPTIONS"]


@pytest.mark.parametrize("size", [5000, 2 * CHUNK])
async def test_a_limit_of_the_bucket_is_learnt_from_its_refusal(
    place: Place, archives: SupabaseArchives, size: int
) -> None:
    place.project.bucket_largest = 4000
    with pytest.raises(ArchiveTooLarge) as refused:
        await archives.put(NAME, place.file(size))
    assert refused.value.limit < size
    assert place.project.objects == {}


async def test_a_file_that_outgrows_the_limit_is_given_up(place: Place) -> None:
    place.project.largest = 3 * CHUNK
    async with place.archives() as archives:
        growing = Told(place.file(3 * CHUNK), 3 * CHUNK, b"x")
        growing.ending.set()
        with pytest.raises(ArchiveTooLarge):
            await archives.put(NAME, growing.path, growth=growing)
    assert (place.project.objects, place.project.uploads) == ({}, {})


async def test_what_dead_workers_left_is_swept_once_it_is_old(
    place: Place, archives: SupabaseArchives
) -> None:
    await archives.put(NAME, place.file(10))
    made = place.project.objects[KEY]
    place.project.objects["claude-code/.incoming/left.zip"] = made
    await archives.sweep(made.updated_at + 47 * 3600)
    assert place.left_over() == ["claude-code/.incoming/left.zip"]
    await archives.sweep(made.updated_at + 49 * 3600)
    assert place.left_over() == []
    assert KEY in place.project.objects
