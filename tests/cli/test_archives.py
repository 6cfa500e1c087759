"""The store is tried before anything runs, and `overnight doctor` tries it too."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.supabase_server.app import Server, storage_server
from tests.supabase_server.bucket import ALL, ANON, SECRET, Project

from overnight.adapters.directory import DirectoryArchives
from overnight.adapters.supabase import SupabaseArchives
from overnight.cli.checks import Verdict
from overnight.cli.doctor import archives, unsaved
from overnight.settings import Settings, SettingsError, load
from overnight.wiring.archives import opened_archives


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "bucket").mkdir()
    async with storage_server(Project(tmp_path / "bucket")) as running:
        yield running


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Settings:
    return load(data=tmp_path / "data", supabase_url=server.url, supabase_secret_key=SecretStr(SECRET))


def with_public_key(settings: Settings) -> Settings:
    return settings.model_copy(update={"supabase_secret_key": None, "supabase_anon_key": SecretStr(ANON)})


async def test_an_address_of_a_project_is_enough_to_choose_it(settings: Settings) -> None:
    async with opened_archives(settings) as store:
        assert isinstance(store, SupabaseArchives)
    async with opened_archives(settings.model_copy(update={"archives": "directory"})) as store:
        assert isinstance(store, DirectoryArchives)


async def test_of_two_stores_none_is_guessed(settings: Settings) -> None:
    two = settings.model_copy(update={"s3_bucket": "sessions"})
    with pytest.raises(SettingsError, match=r"OVERNIGHT_ARCHIVES: .*`supabase` or `s3`"):
        async with opened_archives(two):
            pass
    checked = await archives(two)
    assert (checked.verdict, "OVERNIGHT_ARCHIVES" in checked.finding) == (Verdict.BAD, True)
    async with opened_archives(two.model_copy(update={"archives": "supabase"})) as store:
        assert isinstance(store, SupabaseArchives)


async def test_a_worker_does_not_start_on_a_store_that_refuses_it(server: Server, settings: Settings) -> None:
    server.project.rights[ANON] = ALL - {"delete"}
    with pytest.raises(SettingsError, match=r"does not let this key delete .*doctor.* Nothing was started"):
        async with opened_archives(with_public_key(settings)):
            pass


@pytest.mark.parametrize(
    ("lacking", "named"), [("supabase_url", "SUPABASE_URL"), ("supabase_secret_key", "SUPABASE_SECRET_KEY")]
)
async def test_what_is_not_set_is_named(settings: Settings, lacking: str, named: str) -> None:
    without = settings.model_copy(update={lacking: None, "archives": "supabase"})
    with pytest.raises(SettingsError, match=named):
        async with opened_archives(without):
            pass
    checked = await archives(without)
    assert (checked.verdict, checked.finding.startswith(named)) == (Verdict.BAD, True)


async def test_doctor_is_content_with_a_secret_key(settings: Settings) -> None:
    checked = await archives(settings)
    assert checked.verdict is Verdict.GOOD
    assert checked.finding.startswith("Supabase, bucket content, folder claude-code, up to ")


async def test_doctor_prints_the_sql_when_rights_are_missing(server: Server, settings: Settings) -> None:
    server.project.rights[ANON] = frozenset()
    checked = await archives(with_public_key(settings))
    assert checked.verdict is Verdict.BAD
    assert checked.remedy is not None
    assert checked.remedy.count("create policy") == 4
    assert ANON not in f"{checked.finding}{checked.remedy}"


async def test_doctor_warns_of_a_public_key_and_of_a_small_limit(server: Server, settings: Settings) -> None:
    public = await archives(with_public_key(settings))
    assert (public.verdict, "public one" in (public.remedy or "")) == (Verdict.NOTE, True)
    server.project.largest = 50 * 1024 * 1024
    small = await archives(settings)
    assert (small.verdict, "OVERNIGHT_ARCHIVE_TOO_LARGE" in (small.remedy or "")) == (Verdict.NOTE, True)


async def test_doctor_of_a_directory_asks_nobody(server: Server, tmp_path: Path) -> None:
    checked = await archives(load(data=tmp_path / "data"))
    assert (checked.verdict, server.requests) == (Verdict.GOOD, [])


async def test_doctor_names_what_is_in_no_archive(tmp_path: Path) -> None:
    settings = load(data=tmp_path)
    assert (await unsaved(settings)).verdict is Verdict.GOOD
    (tmp_path / "unsaved" / "session.job.1").mkdir(parents=True)
    told = await unsaved(settings)
    assert (told.verdict, "session.job.1" in told.finding) == (Verdict.NOTE, True)
