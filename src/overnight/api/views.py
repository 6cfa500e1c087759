"""What the API shows. The field notes here are the reference: /openapi.json is made from these types."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from starlette.responses import Response

from overnight.archive import Entry, Kind, printable
from overnight.domain.errors import JobError
from overnight.domain.job import (
    ArchiveRef,
    Delivery,
    DeliveryStatus,
    Event,
    Job,
    Session,
    Snapshot,
    Status,
    Usage,
    WaitingFor,
)

Time = Annotated[
    str, Meta(description="RFC 3339 in UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]
LAST_SECOND = 253_402_300_799.0
"""The end of the year 9999: a stranger's zip may hold any time, RFC 3339 does not."""

Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class Accepted(Struct, frozen=True, kw_only=True):
    """The job is on disk and will reach exactly one final status."""

    job_id: Id
    session_id: Annotated[Id, Meta(description="Send it with the next prompt to go on in this session.")]
    status: Status = Status.QUEUED
    message: str = "Job queued for processing"


class Erasing(Struct, frozen=True, kw_only=True):
    """The session cannot be seen or used any more, but not all of it could be deleted yet."""

    session_id: Id
    message: str = "Session marked for erasure; what is left of it will be deleted"


class JobLinks(Struct, frozen=True):
    """Paths on this service. The JSON name of `this` is `self`."""

    this: str = field(name="self")
    events: str
    session: str


class JobSummary(Struct, frozen=True, kw_only=True):
    """One prompt, from acceptance to one final status. `result` and `structured_output` are left out here."""

    job_id: Id
    session_id: Id
    status: Status
    waiting_for: Annotated[WaitingFor | None, Meta(description="Why a queued job does not run yet.")]
    queue_position: Annotated[int | None, Meta(description="Open jobs of the session before this one.")]
    available_at: Annotated[Time | None, Meta(description="Until when a queued job waits, if it does.")]
    created_at: Time
    started_at: Annotated[Time | None, Meta(description="Start of the first attempt.")]
    completed_at: Time | None
    attempt: Annotated[int, Meta(description="Number of the current or last attempt; 0 before the first.")]
    cancel_requested_at: Time | None
    error: JobError | None
    usage: Usage
    cost_usd: Annotated[float, Meta(description="All its attempts together, in US dollars.")]
    num_turns: int
    isolation: Annotated[str | None, Meta(description="How the run was kept apart from the machine.")]
    isolation_properties: Annotated[
        Mapping[str, bool],
        Meta(description="What was measured of it, by name; empty before the first attempt."),
    ]
    archive: Annotated[str | None, Meta(description="Name of the archive that the job left.")]
    metadata: dict[str, str]
    owner: Annotated[str, Meta(description="Whose it is, as the API key says; empty without keys.")]
    links: JobLinks


class JobView(JobSummary, frozen=True, kw_only=True):
    """One prompt, from acceptance to one final status, with what came of it."""

    result: Annotated[str | None, Meta(description="The agent's last message.")]
    structured_output: Annotated[Any, Meta(description="What fits `output_schema`, if one was sent.")]


class JobPage(Struct, frozen=True):
    """Newest first. `next_cursor` continues; null at the end."""

    data: Sequence[JobSummary]
    next_cursor: str | None


class SessionLinks(Struct, frozen=True):
    """Paths on this service. The JSON name of `this` is `self`."""

    this: str = field(name="self")
    jobs: str
    archive: str
    files: str


class SessionView(Struct, frozen=True, kw_only=True):
    """A conversation and its files, across jobs."""

    session_id: Id
    created_at: Time
    updated_at: Time
    jobs: Annotated[int, Meta(description="Jobs that it has had.")]
    line: Annotated[Sequence[Id], Meta(description="Its open jobs, in the order they run.")]
    cost_usd: float
    archive: Annotated[ArchiveRef | None, Meta(description="Null until a job of it was saved.")]
    owner: Annotated[str, Meta(description="Whose it is, as the API key says; empty without keys.")]
    links: SessionLinks


class SessionPage(Struct, frozen=True):
    """Newest first. `next_cursor` continues; null at the end."""

    data: Sequence[SessionView]
    next_cursor: str | None


class FileView(Struct, frozen=True, kw_only=True):
    """An entry of the archive. `size` is in bytes, `mode` in octal digits."""

    name: str
    kind: Kind
    size: int
    mode: str
    modified_at: Time


class FileList(Struct, frozen=True):
    """All entries of the session's workspace, by name."""

    data: Sequence[FileView]


class EventView(Struct, frozen=True, kw_only=True, rename={"kind": "type"}):
    """One numbered fact about a job; numbers start at 1 and have no gaps."""

    seq: int
    kind: Annotated[str, Meta(description="Such as job.started, tool.finished, job.completed.")]
    time: Time
    job_id: Id
    session_id: Id
    attempt: int
    data: Mapping[str, Any]


class EventPage(Struct, frozen=True):
    """Oldest first. Pass `next_after` as `after` to go on; `final`: the job has ended, and this is all there is."""

    data: Sequence[EventView]
    next_after: int
    final: bool


class TryView(Struct, frozen=True):
    """One try: the receiver's HTTP status, or the class of failure."""

    at: Time
    status: int | None
    failure: str | None


class DeliveryView(Struct, frozen=True, kw_only=True, rename={"delivery_id": "id"}):
    """A webhook that the job owes or owed. `id` is the `webhook-id` that the receiver sees."""

    delivery_id: str
    job_id: Id
    status: DeliveryStatus
    created_at: Time
    next_at: Annotated[Time | None, Meta(description="When the next try is due, while it is owed.")]
    tries: Sequence[TryView]


class DeliveryList(Struct, frozen=True):
    """Oldest first."""

    data: Sequence[DeliveryView]


class Health(Struct, frozen=True):
    """The process answers."""

    version: str
    status: str = "ok"
    service: str = "overnight"


class Ready(Struct, frozen=True, kw_only=True):
    """Whether jobs sent now are run here, and how runs are kept apart from the machine."""

    ready: bool
    draining: bool
    isolation: str
    isolation_properties: Mapping[str, bool]
    reasons: Sequence[str]


def answer(view: Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(view),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        "application/json",
    )


def rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _maybe(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


_WAIT_FOR_A_TIME = frozenset({WaitingFor.RETRY, WaitingFor.RATE_LIMIT, WaitingFor.BUDGET})


def job_summary(snapshot: Snapshot) -> JobSummary:
    return JobSummary(**_job_fields(snapshot))


def job_view(snapshot: Snapshot) -> JobView:
    job = snapshot.job
    return JobView(**_job_fields(snapshot), result=job.result, structured_output=job.structured_output)


def _job_fields(snapshot: Snapshot) -> dict[str, Any]:
    job = snapshot.job
    waits = job.status is Status.QUEUED and snapshot.waiting_for in _WAIT_FOR_A_TIME
    return {
        "job_id": job.job_id,
        "session_id": job.session_id,
        "status": job.status,
        "waiting_for": snapshot.waiting_for,
        "queue_position": snapshot.queue_position,
        "available_at": rfc3339(job.available_at) if waits else None,
        "created_at": rfc3339(job.created_at),
        "started_at": _maybe(job.started_at),
        "completed_at": _maybe(job.completed_at),
        "attempt": job.attempt,
        "cancel_requested_at": _maybe(job.cancel_requested_at),
        "error": job.error,
        "usage": job.usage,
        "cost_usd": job.cost_usd,
        "num_turns": job.num_turns,
        "isolation": job.isolation,
        "isolation_properties": job.isolation_properties,
        "archive": job.archive,
        "metadata": job.metadata,
        "owner": job.owner,
        "links": JobLinks(f"/jobs/{job.job_id}", f"/jobs/{job.job_id}/events", f"/sessions/{job.session_id}"),
    }


def session_view(session: Session) -> SessionView:
    path = f"/sessions/{session.session_id}"
    return SessionView(
        session_id=session.session_id,
        created_at=rfc3339(session.created_at),
        updated_at=rfc3339(session.updated_at),
        jobs=session.jobs,
        line=session.line,
        cost_usd=session.cost_usd,
        archive=session.archive,
        owner=session.owner,
        links=SessionLinks(
            path, f"/jobs?session_id={session.session_id}", f"{path}/archive", f"{path}/files"
        ),
    )


def event_view(event: Event, job: Job) -> EventView:
    return EventView(
        seq=event.seq,
        kind=event.type,
        time=rfc3339(event.time),
        job_id=job.job_id,
        session_id=job.session_id,
        attempt=event.attempt,
        data=event.data,
    )


def file_view(entry: Entry) -> FileView:
    return FileView(
        name=printable(entry.name),
        kind=entry.kind,
        size=entry.size,
        mode=f"{entry.mode:04o}",
        modified_at=rfc3339(min(max(entry.mtime_ns / 1e9, 0.0), LAST_SECOND)),
    )


def delivery_view(delivery: Delivery) -> DeliveryView:
    """Without URL and body: the one may hold a secret of the receiver's, the other is the job's own."""
    return DeliveryView(
        delivery_id=delivery.delivery_id,
        job_id=delivery.job_id,
        status=delivery.status,
        created_at=rfc3339(delivery.created_at),
        next_at=rfc3339(delivery.next_at) if delivery.status is DeliveryStatus.OWED else None,
        tries=tuple(TryView(rfc3339(tried.at), tried.status, tried.failure) for tried in delivery.tries),
    )
