"""What keeps the archives of sessions in bounds."""

from overnight.flows.housekeeping import Housekeeping
from overnight.flows.kept_here import KeptHere
from overnight.flows.retention import Retention
from overnight.ports import ArchiveStore, Clock, JobIndex, JobStore
from overnight.settings import Settings

HOUSEKEEPING_PAUSE = 60.0


def retention_of(settings: Settings, store: JobStore, archives: ArchiveStore, clock: Clock) -> Retention:
    return Retention(store=store, archives=archives, clock=clock, policy=settings.retention_policy)


def housekeeping_of(
    settings: Settings, store: JobStore, index: JobIndex, archives: ArchiveStore, retention: Retention
) -> Housekeeping:
    return Housekeeping(
        store=store, index=index, archives=archives, kept=KeptHere(settings.data), retention=retention
    )
