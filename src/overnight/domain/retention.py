"""Which stored archives of a session are of no more use, and which finished jobs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from overnight.domain.archive_names import ArchiveId, parse_archive_name
from overnight.domain.job import Job, Status

IDEMPOTENCY_DAYS = 7
IDEMPOTENCY_SECONDS = IDEMPOTENCY_DAYS * 86_400.0
"""An idempotency key answers with its job for so long, so no job is forgotten earlier."""


def may_be_forgotten(job: Job, *, finished_before: float, is_newest: bool, owes: bool) -> bool:
    """Whether a job is long over and nothing hangs on it. `is_newest` of its session; `owes` a webhook still."""
    over = job.status.final and job.completed_at is not None and job.completed_at < finished_before
    return over and not is_newest and not owes


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """`versions` counts the current archive. `max_age_seconds` is of the others; None sets no limit.

    Younger than `grace_seconds`, an archive of a job that the store does not know may be one whose writer has not
    come to write the job or session down.
    """

    versions: int = 10
    max_age_seconds: float | None = None
    grace_seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArchives:
    """What is known about the archives of one session.

    `stored_at` is of each name, in Unix seconds. `jobs` are those that the names speak of, without the unknown
    ones. `current` is what the session points at, read after the jobs: then an archive that the pointer may yet
    move to belongs to a job that was open, or was stored late and is young.
    """

    stored_at: Mapping[str, float]
    jobs: Mapping[str, Job]
    current: str | None


def superfluous(archives: StoredArchives, *, policy: RetentionPolicy, now: float) -> list[str]:
    """Names that may be deleted.

    Each job is one version: the archive that its document names; so is each upload. Kept are the current one, the
    newest others, all that an open job has stored, what a dead letter goes on from when it is sent again, what may
    have been stored late, and whatever has a name that is not ours.
    """
    ours = {name: parsed for name in archives.stored_at if (parsed := parse_archive_name(name)) is not None}
    kept = {archives.current}
    kept.update(_newest_versions(archives, ours, policy, now))
    kept.update(_needed_by_jobs(archives, ours))
    kept.update(_of_unknown_jobs(archives, ours, since=now - policy.grace_seconds))
    kept.update(_stored_late(archives, ours, since=now - policy.grace_seconds))
    return sorted(ours.keys() - kept)


def spent_checkpoints(names: Iterable[str], job: Job) -> list[str]:
    """Those that an attempt which has ended, as the job says it, leaves behind: its own and those of attempts before.
    Not of later ones: the job may have been sent again by now, and go on from what that has stored."""
    ours = ((name, parsed) for name in names if (parsed := parse_archive_name(name)) is not None)
    return [
        name
        for name, parsed in ours
        if parsed.job_id == job.job_id and parsed.checkpoint is not None and parsed.attempt <= job.attempt
    ]


def _newest_versions(
    archives: StoredArchives, ours: Mapping[str, ArchiveId], policy: RetentionPolicy, now: float
) -> list[str]:
    """Besides the current one."""
    at, limit = archives.stored_at, policy.max_age_seconds
    versions = [
        name
        for name, parsed in ours.items()
        if name != archives.current
        and _is_version(name, parsed, archives.jobs)
        and (limit is None or at[name] >= now - limit)
    ]
    versions.sort(key=lambda name: (at[name], name), reverse=True)
    return versions[: policy.versions - (archives.current is not None)]


def _is_version(name: str, parsed: ArchiveId, jobs: Mapping[str, Job]) -> bool:
    """One whose job's document is gone counts as well: nothing says that the session never pointed at it."""
    job = jobs.get(parsed.job_id)
    return parsed.checkpoint is None if job is None else job.archive == name


def _needed_by_jobs(archives: StoredArchives, ours: Mapping[str, ArchiveId]) -> Iterator[str]:
    for job_id, job in archives.jobs.items():
        own = [name for name, parsed in ours.items() if parsed.job_id == job_id]
        if not job.status.final:
            yield from own
        elif job.status is Status.FAILED and job.archive is None:
            checkpoints = [name for name in own if ours[name].checkpoint is not None]
            yield from sorted(checkpoints, key=lambda name: _order(ours[name]))[-1:]


def _order(parsed: ArchiveId) -> tuple[int, int]:
    return parsed.attempt, parsed.checkpoint or 0


def _of_unknown_jobs(
    archives: StoredArchives, ours: Mapping[str, ArchiveId], *, since: float
) -> Iterator[str]:
    for name, parsed in ours.items():
        if parsed.job_id not in archives.jobs and archives.stored_at[name] > since:
            yield name


def _stored_late(archives: StoredArchives, ours: Mapping[str, ArchiveId], *, since: float) -> Iterator[str]:
    """Of a job that ended without an archive: the pointer may be about to move to it (`late.py`)."""
    for name, parsed in ours.items():
        job = archives.jobs.get(parsed.job_id)
        is_last = job is not None and job.archive is None and job.attempt == parsed.attempt
        if is_last and parsed.checkpoint is None and archives.stored_at[name] > since:
            yield name
