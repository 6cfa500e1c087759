"""What keeps the archives of sessions in bounds: those that are stored, and those that are sent to us."""

from overnight.archive import Caps, Profile
from overnight.flows.housekeeping import Housekeeping
from overnight.flows.kept_here import KeptHere
from overnight.flows.retention import Retention
from overnight.ports import ArchiveStore, Clock, JobIndex, JobStore
from overnight.settings import Settings

HOUSEKEEPING_PAUSE = 60.0


def retention_of(settings: Settings, store: JobStore, archives: ArchiveStore, clock: Clock) -> Retention:
    return Retention(store=store, archives=archives, clock=clock, policy=settings.retention_policy)


def housekeeping_of(
    settings: Settings,
    store: JobStore,
    index: JobIndex,
    archives: ArchiveStore,
    retention: Retention,
    *,
    walks: bool,
) -> Housekeeping:
    return Housekeeping(
        store=store,
        index=index,
        archives=archives,
        kept=KeptHere(settings.data),
        retention=retention,
        walks=walks,
    )


def uploads_of(settings: Settings) -> Profile:
    caps = Caps(
        archive_bytes=settings.max_archive_bytes,
        entries=settings.upload_max_entries,
        file_bytes=settings.upload_max_file_bytes,
        content_bytes=settings.upload_max_content_bytes,
    )
    return Profile(stranger=True, caps=caps)
