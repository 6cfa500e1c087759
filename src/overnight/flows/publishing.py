"""The session's archive once more under its stable name: a convenience, which no job fails by."""

import logging

from overnight.domain.archive_names import archive_name
from overnight.domain.errors import SessionNotFound
from overnight.domain.job import Job, Session
from overnight.flows.workspace import Workspaces
from overnight.ports import ArchiveMissing, JobStore, StorageError

log = logging.getLogger(__name__)


async def publish(job: Job, *, store: JobStore, workspaces: Workspaces) -> None:
    """Publish the job's archive, if it is its session's current one; what does not succeed the next job makes good.

    Of a session that was erased meanwhile nothing may stay that the erasure, which was faster, has not seen.
    """
    try:
        session = await store.session(job.session_id)
        if session.archive_name == archive_name(job):
            await _publish(session, store, workspaces)
    except SessionNotFound:
        await workspaces.forget_session(job.session_id)
    except StorageError:
        log.warning("could not look for session %s", job.session_id, exc_info=True)


async def _publish(session: Session, store: JobStore, workspaces: Workspaces) -> None:
    """And what later jobs have published before this copy was done. Raises SessionNotFound, StorageError."""
    published = None
    while session.archive is not None and session.archive.name != published:
        published = session.archive.name
        try:
            await workspaces.publish(session.session_id, published)
        except (OSError, ArchiveMissing):
            log.exception("could not publish the archive of session %s", session.session_id)
        session = await store.session(session.session_id)
