"""The store that archives are kept in, by the settings."""

import contextlib
from collections.abc import AsyncIterator

from overnight.adapters.directory import DirectoryArchives
from overnight.ports import ArchiveStore
from overnight.settings import Settings, SettingsError


@contextlib.asynccontextmanager
async def opened_archives(settings: Settings) -> AsyncIterator[ArchiveStore]:
    """The store, ready for use, while the block runs. Raises SettingsError if it cannot be used as it is set."""
    match chosen_archives(settings):
        case "directory":
            yield DirectoryArchives(settings.data / "archives")
        case other:
            raise SettingsError(f"OVERNIGHT_ARCHIVES: {other} is not built in yet. Nothing was started.")


def chosen_archives(settings: Settings) -> str:
    return "directory" if settings.archives == "auto" else settings.archives
