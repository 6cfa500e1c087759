"""Keys, rights and limits of a Supabase project, on the stand-in (tests/supabase_server)."""

import pytest
from tests.supabase_server.bucket import ALL, ANON, CHUNK, EXPIRED, SECRET, SERVICE
from tests.supabase_server.place import ALIAS, KEY, NAME, Place, Told

from overnight.adapters.supabase import SupabaseArchives
from overnight.adapters.supabase.patience import Unreachable
from overnight.ports import ArchiveDenied, ArchiveMissing, ArchiveTooLarge


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
