"""What a change of a job writes, and what was read for it, as documents and as the values of the domain."""

from collections.abc import Mapping

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import ABSENT, Document
from overnight.domain.errors import JobNotFound
from overnight.domain.job import Change, Job, Session, Snapshot

Found = Mapping[str, Document]


def documents_of(change: Change) -> dict[str, str]:
    """All that a change writes, by key."""
    job = change.job
    events = {codec.event_key(job.job_id, event.seq): codec.encode(event) for event in change.events}
    deliveries = {
        codec.delivery_key(job.job_id, owed.delivery_id): codec.encode(owed) for owed in change.deliveries
    }
    own = {codec.JOBS + job.job_id: codec.encode(job), codec.SESSION: codec.encode(change.session)}
    return own | events | deliveries


def rings_of(change: Change) -> dict[str, float]:
    return {bell.job_id: bell.at for bell in change.rings}


def session_in(found: Found) -> Session | None:
    return codec.decode(Session, found[codec.SESSION].body) if codec.SESSION in found else None


def snapshot_in(found: Found, job_id: str) -> Snapshot:
    """Raises JobNotFound."""
    session, document = session_in(found), found.get(codec.JOBS + job_id)
    if session is None or document is None or document.body == codec.ABANDONED:
        raise JobNotFound("no such job")
    return Snapshot(job=codec.decode(Job, document.body), session=session)


def version_in(found: Found, key: str) -> int:
    return found[key].version if key in found else ABSENT
