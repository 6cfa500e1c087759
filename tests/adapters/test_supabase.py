"""What Supabase Storage keeps and what it answers, on the stand-in (tests/supabase_server)."""

import asyncio
import contextlib

import pytest
from tests.supabase_server.bucket import (
    CHUNK,
    Answer,
    Plain,
    false_miss,
)
from tests.supabase_server.place import ALIAS, KEY, NAME, Place

from overnight.adapters.supabase import SupabaseArchives
from overnight.adapters.supabase.patience import Unreachable
from overnight.ports import ArchiveConflict


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


async def test_an_answer_that_ends_too_early_is_not_asked_for_without_end(
    place: Place, archives: SupabaseArchives
) -> None:
    await archives.put(NAME, place.file(1000))
    place.server.faults.queued += [("GET", "/object/authenticated", Plain(200, "")) for _ in range(50)]
    with pytest.raises(OSError, match="size or checksum"):
        await archives.fetch(NAME, place.directory / "t")
    assert not (place.directory / "t").exists()
