"""Uploads to Supabase Storage while the file is still written, on the stand-in."""

import asyncio
import os
import tracemalloc

import pytest
from tests.supabase_server.bucket import (
    CHUNK,
    missing,
)
from tests.supabase_server.place import KEY, NAME, ROOM, Place, Told

from overnight.adapters.supabase import SupabaseArchives


async def test_what_is_written_goes_out_while_the_rest_is_packed(
    place: Place, archives: SupabaseArchives
) -> None:
    growing = Told(place.file(3 * CHUNK), 3 * CHUNK, b"the end")
    putting = asyncio.create_task(archives.put(NAME, growing.path, growth=growing))
    async with asyncio.timeout(20):
        await place.server.until_received(2 * CHUNK)
    assert not putting.done()
    growing.ending.set()
    stored = await putting
    assert stored.size == 3 * CHUNK + 7
    assert place.holds(KEY, growing.path)


async def test_broken_three_times_it_goes_on_where_it_was_and_sends_nothing_twice(
    place: Place, archives: SupabaseArchives
) -> None:
    growing = Told(place.file(4 * CHUNK), 4 * CHUNK, os.urandom(CHUNK + 12345))
    place.wire.cuts_up = [CHUNK // 2, 2 * CHUNK + CHUNK // 3, 5 * CHUNK]
    putting = asyncio.create_task(archives.put(NAME, growing.path, growth=growing))
    async with asyncio.timeout(20):
        await place.server.until_received(2 * CHUNK)
    growing.ending.set()
    stored = await putting
    assert place.wire.cuts_up == []
    assert place.holds(KEY, growing.path)
    # What was still on the line when it was cut comes again, and no more.
    assert place.wire.up < stored.size + 3 * (CHUNK + ROOM)
    assert sum(place.server.received) < stored.size + 3 * ROOM
    assert [path for method, path in place.server.requests if method == "POST"].count(
        "/upload/resumable"
    ) == 1


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
