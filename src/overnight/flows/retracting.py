"""What was stored for a job that may not point at it any more."""

from overnight.domain.archive_names import archive_name
from overnight.domain.errors import JobNotFound
from overnight.domain.job import Job
from overnight.flows.workspace import Workspaces
from overnight.ports import JobStore, StorageError


async def retract(job: Job, *, store: JobStore, workspaces: Workspaces) -> None:
    """Delete the archive of the job's attempt, unless it was this attempt, in whatever process, that ended the job.

    Of an erased session too: it may have been erased before this was stored, and nobody else will find it. In doubt it
    stays, and retention deletes it.
    """
    try:
        pointed_at = (await store.snapshot(job.job_id)).job.archive
    except JobNotFound:
        pointed_at = None
    except StorageError:
        return
    if pointed_at != archive_name(job):
        await workspaces.forget(archive_name(job))
