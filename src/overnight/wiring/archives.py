"""The store that archives are kept in, by the settings."""

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from overnight.adapters.directory import DirectoryArchives
from overnight.adapters.supabase import Access, SupabaseArchives, policies, supabase_archives
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.ports import ArchiveDenied, ArchiveStore
from overnight.settings import Settings, SettingsError
from overnight.wiring.s3 import checked_s3, try_s3

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def opened_archives(settings: Settings) -> AsyncIterator[ArchiveStore]:
    """The store, ready for use, while the block runs. Raises SettingsError if it cannot be used as it is set."""
    match chosen_archives(settings):
        case "directory":
            directory = DirectoryArchives(settings.data / "archives")
            await directory.sweep(SystemClock().now())
            yield directory
        case "supabase":
            async with _checked_supabase(settings) as archives:
                yield archives
        case _:
            yield await checked_s3(settings)


def chosen_archives(settings: Settings) -> str:
    """Raises SettingsError if `auto` would have to guess."""
    if settings.archives != "auto":
        return settings.archives
    if settings.supabase_url and settings.s3_bucket:
        raise SettingsError(
            "OVERNIGHT_ARCHIVES: SUPABASE_URL and OVERNIGHT_S3_BUCKET are both set. Say which of the two keeps the "
            "archives, `supabase` or `s3`. Nothing was started."
        )
    if settings.supabase_url:
        return "supabase"
    return "s3" if settings.s3_bucket else "directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What trying the store has shown. `refused`: it cannot be used. `sql` gives the rights that may lack."""

    finding: str
    refused: bool = False
    limit: int | None = None
    public_key: bool = False
    sql: str | None = None


async def try_archives(settings: Settings) -> Tried:
    """Write, read, list and delete one small object, where the store is not a directory."""
    try:
        if chosen_archives(settings) == "directory":
            return Tried(finding=f"in {settings.data / 'archives'}")
        if chosen_archives(settings) == "s3":
            return Tried(finding=await try_s3(settings))
        async with _supabase(settings) as archives:
            await archives.check()
    except ArchiveDenied as denied:
        sql = policies(_access(settings)) if chosen_archives(settings) == "supabase" else None
        return Tried(finding=str(denied), refused=True, sql=sql)
    except (OSError, SettingsError) as error:
        return Tried(finding=str(error), refused=True)
    return Tried(
        finding=f"Supabase, bucket {settings.supabase_bucket}, folder {settings.supabase_prefix}",
        limit=archives.largest,
        public_key=settings.supabase_key == settings.supabase_anon_key,
    )


@contextlib.asynccontextmanager
async def _checked_supabase(settings: Settings) -> AsyncIterator[SupabaseArchives]:
    """A worker whose store refuses it would run jobs and lose their files: it does not start."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            archives = await stack.enter_async_context(_supabase(settings))
            await archives.check()
            await archives.sweep(SystemClock().now())
        except OSError as error:
            raise SettingsError(f"The archive store cannot be used. {error} Nothing was started.") from error
        log.info("archives of up to %s bytes are kept in Supabase Storage", archives.largest)
        yield archives


@contextlib.asynccontextmanager
async def _supabase(settings: Settings) -> AsyncIterator[SupabaseArchives]:
    async with supabase_archives(
        _access(settings),
        notes=settings.data / "uploads",
        clock=SystemClock(),
        entropy=SystemEntropy(),
    ) as archives:
        yield archives


def _access(settings: Settings) -> Access:
    if settings.supabase_url is None:
        raise SettingsError("SUPABASE_URL: needed to keep archives in Supabase Storage. Nothing was started.")
    if settings.supabase_key is None:
        raise SettingsError(
            "SUPABASE_SECRET_KEY: needed to keep archives in Supabase Storage, or SUPABASE_SERVICE_ROLE_KEY, or "
            "SUPABASE_ANON_KEY with four policies (docs/archives.md). Nothing was started."
        )
    return Access(
        url=settings.supabase_url,
        key=settings.supabase_key.get_secret_value(),
        bucket=settings.supabase_bucket,
        prefix=settings.supabase_prefix,
    )
