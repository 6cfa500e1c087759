"""Uploads to Supabase Storage that break, on the stand-in (tests/supabase_server)."""

import asyncio
import contextlib
import hashlib
import json
import signal
import sys

import pytest
from tests.supabase_server.bucket import (
    CHUNK,
    SECRET,
    Plain,
)
from tests.supabase_server.place import KEY, NAME, ROOM, Place

from overnight.adapters.supabase import SupabaseArchives
from overnight.adapters.supabase.patience import Unreachable


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
            await place.wire.carried_up(7 * CHUNK // 2)
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


async def test_an_upload_that_could_not_take_its_name_is_not_sent_again(
    place: Place, archives: SupabaseArchives
) -> None:
    source = place.file(3 * CHUNK)
    place.server.faults.queued += [("POST", "/object/move", Plain(503, "down")) for _ in range(20)]
    with pytest.raises(Unreachable):
        await archives.put(NAME, source)
    place.server.faults.queued.clear()
    await archives.put(NAME, source)
    assert place.holds(KEY, source)
    assert sum(place.server.received) == 3 * CHUNK
    assert place.left_over() == []
    assert [*(place.directory / "notes").iterdir()] == []


@pytest.mark.parametrize("size", [1000, 2 * CHUNK])
async def test_what_did_not_arrive_whole_is_not_stored_and_can_be_sent_again(
    place: Place, archives: SupabaseArchives, size: int
) -> None:
    source = place.file(size)
    short = Plain(200, json.dumps({"size": 1, "etag": ""}))
    # One in parts is sent a second time at once.
    place.server.faults.queued += [("GET", "/object/info", short)] * (1 if size == 1000 else 2)
    with pytest.raises(Unreachable, match="has not kept"):
        await archives.put(NAME, source)
    assert KEY not in place.project.objects
    await archives.put(NAME, source)
    assert place.holds(KEY, source)


async def test_another_file_under_the_same_name_is_never_mixed_with_the_broken_one(
    place: Place, archives: SupabaseArchives
) -> None:
    place.project.s3_backend = True  # whose etag would not show it
    broken_off = asyncio.create_task(archives.put(NAME, place.file(4 * CHUNK)))
    place.wire.uplink = 60e6
    await place.wire.carried_up(2 * CHUNK)
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
