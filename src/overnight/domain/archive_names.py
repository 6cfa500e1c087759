"""The names of archives: the one place that makes them and reads them.

claude-code/{session_id}/{job_id}.{attempt}.zip       what an attempt left; an upload has the attempt 0, as no job has
claude-code/{session_id}/{job_id}.{attempt}.c{n}.zip  its checkpoints
claude-code/{session_id}.zip                          the session's current archive once more
"""

import re
from dataclasses import dataclass

from overnight.domain.ids import InvalidId, parse_uuid
from overnight.domain.job import Job

ARCHIVES = "claude-code"
"""The first component of every name."""

_LAST_COMPONENT = re.compile(r"([^./]+)\.([0-9]+)(?:\.c([0-9]+))?\.zip", re.ASCII)


@dataclass(frozen=True, slots=True)
class ArchiveId:
    """What the last component of an archive's name says."""

    job_id: str
    attempt: int
    checkpoint: int | None


def archive_name(job: Job) -> str:
    return f"{archives_of(job.session_id)}{job.job_id}.{job.attempt}.zip"


def checkpoint_name(job: Job, number: int) -> str:
    return f"{archives_of(job.session_id)}{job.job_id}.{job.attempt}.c{number}.zip"


def upload_name(session_id: str, upload_id: str) -> str:
    return f"{archives_of(session_id)}{upload_id}.0.zip"


def alias_name(session_id: str) -> str:
    """The stable name of a session's current archive: the name of the plan."""
    return f"{ARCHIVES}/{session_id}.zip"


def archives_of(session_id: str) -> str:
    """What all names of a session begin with, but its alias."""
    return f"{ARCHIVES}/{session_id}/"


def parse_archive_name(name: str) -> ArchiveId | None:
    """Of `.../{job_id}.{attempt}.zip` or `.../{job_id}.{attempt}.c{n}.zip`; None for any other name."""
    parts = _LAST_COMPONENT.fullmatch(name.rpartition("/")[2])
    if parts is None:
        return None
    job_id, attempt, checkpoint = parts.groups()
    try:
        parse_uuid(job_id)
    except InvalidId:
        return None
    return ArchiveId(job_id, int(attempt), None if checkpoint is None else int(checkpoint))
