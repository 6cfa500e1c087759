"""The route table: every call of the API with what it takes and answers. Routes and OpenAPI are made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from overnight.api import events, jobs, service, sessions
from overnight.api.parts import Call
from overnight.api.problems import Code
from overnight.api.requests import EventsQuery, ExecuteRequest, JobsQuery, SessionsQuery
from overnight.api.views import (
    Accepted,
    DeliveryList,
    DeliveryView,
    Erasing,
    EventPage,
    FileList,
    Health,
    JobPage,
    JobView,
    Ready,
    SessionPage,
    SessionView,
)
from overnight.domain.keys import Scope

BINARY = "binary"


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer: a JSON view, or bytes of other media types, or nothing."""

    meaning: str
    view: type[Struct] | None = None
    media: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`call`'s docstring is the description. `problems` come on top of those that every call can answer.

    `needs` is the scope that a key must have; None lets everybody in.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    id: str
    tag: str
    call: Call
    needs: Scope | None
    replies: Mapping[int, Reply]
    problems: tuple[Code, ...] = ()
    body: type[Struct] | str | None = None
    query: type[Struct] | None = None
    headers: tuple[str, ...] = field(default=())


_JOB = (Code.JOB_NOT_FOUND,)
_SESSION = (Code.SESSION_NOT_FOUND,)
_BODY = (Code.UNSUPPORTED_MEDIA_TYPE, Code.BODY_TOO_LARGE, Code.REQUEST_TIMEOUT)
_JSON_BODY = (Code.INVALID_JSON, Code.INVALID_REQUEST, *_BODY)
_LIMITS = (Code.TOO_MANY_JOBS, Code.BUDGET_EXHAUSTED, Code.QUEUE_FULL)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="POST",
        path="/execute",
        id="execute",
        tag="jobs",
        call=jobs.execute,
        needs=Scope.SUBMIT,
        body=ExecuteRequest,
        headers=("Idempotency-Key",),
        replies={202: Reply("The job is queued.", Accepted, headers=("Location", "Idempotent-Replayed"))},
        problems=(
            *_JSON_BODY,
            Code.INVALID_ID,
            Code.INVALID_IDEMPOTENCY_KEY,
            Code.IDEMPOTENCY_KEY_REUSED,
            Code.CALLBACK_URL_REFUSED,
            Code.MODEL_NOT_ALLOWED,
            *_SESSION,
            Code.LINE_FULL,
            *_LIMITS,
            Code.DRAINING,
        ),
    ),
    Operation(
        method="GET",
        path="/status/{job_id}",
        id="status",
        tag="jobs",
        call=jobs.status,
        needs=Scope.READ,
        replies={200: Reply("The job.", JobView)},
        problems=_JOB,
    ),
    Operation(
        method="GET",
        path="/jobs",
        id="list_jobs",
        tag="jobs",
        call=jobs.listing,
        needs=Scope.READ,
        query=JobsQuery,
        replies={200: Reply("A page of jobs.", JobPage)},
        problems=(Code.INVALID_REQUEST, Code.INVALID_ID, Code.INVALID_CURSOR),
    ),
    Operation(
        method="GET",
        path="/jobs/{job_id}",
        id="get_job",
        tag="jobs",
        call=jobs.status,
        needs=Scope.READ,
        replies={200: Reply("The job.", JobView)},
        problems=_JOB,
    ),
    Operation(
        method="POST",
        path="/jobs/{job_id}/cancel",
        id="cancel_job",
        tag="jobs",
        call=jobs.cancel_job,
        needs=Scope.SUBMIT,
        replies={
            200: Reply("The job is finished, now or before.", JobView),
            202: Reply("The run is asked to stop.", JobView),
        },
        problems=_JOB,
    ),
    Operation(
        method="POST",
        path="/jobs/{job_id}/retry",
        id="retry_job",
        tag="jobs",
        call=jobs.retry_job,
        needs=Scope.SUBMIT,
        replies={202: Reply("The job is queued again, or open already.", JobView)},
        problems=(*_JOB, Code.NOT_RETRYABLE, Code.LINE_FULL, *_LIMITS),
    ),
    Operation(
        method="GET",
        path="/jobs/{job_id}/events",
        id="list_events",
        tag="jobs",
        call=events.events,
        needs=Scope.READ,
        query=EventsQuery,
        headers=("Last-Event-ID",),
        replies={
            200: Reply("A page, or the stream.", EventPage, media=("text/event-stream",)),
            204: Reply("To a stream: the job is finished and all its events have been seen."),
        },
        problems=(*_JOB, Code.INVALID_REQUEST),
    ),
    Operation(
        method="GET",
        path="/jobs/{job_id}/deliveries",
        id="list_deliveries",
        tag="webhooks",
        call=jobs.deliveries,
        needs=Scope.READ,
        replies={200: Reply("The job's webhooks.", DeliveryList)},
        problems=_JOB,
    ),
    Operation(
        method="POST",
        path="/deliveries/{delivery_id}/redeliver",
        id="redeliver",
        tag="webhooks",
        call=jobs.redeliver,
        needs=Scope.SUBMIT,
        replies={202: Reply("It is owed again.", DeliveryView)},
        problems=(Code.DELIVERY_NOT_FOUND,),
    ),
    Operation(
        method="GET",
        path="/sessions",
        id="list_sessions",
        tag="sessions",
        call=sessions.listing,
        needs=Scope.READ,
        query=SessionsQuery,
        replies={200: Reply("A page of sessions.", SessionPage)},
        problems=(Code.INVALID_REQUEST, Code.INVALID_CURSOR),
    ),
    Operation(
        method="GET",
        path="/sessions/{session_id}",
        id="get_session",
        tag="sessions",
        call=sessions.session,
        needs=Scope.READ,
        replies={200: Reply("The session.", SessionView)},
        problems=_SESSION,
    ),
    Operation(
        method="DELETE",
        path="/sessions/{session_id}",
        id="delete_session",
        tag="sessions",
        call=sessions.delete,
        needs=Scope.SUBMIT,
        replies={
            202: Reply("It is gone for every caller; the rest is deleted later.", Erasing),
            204: Reply("Nothing of it is left."),
        },
        problems=(*_SESSION, Code.SESSION_BUSY),
    ),
    Operation(
        method="GET",
        path="/sessions/{session_id}/archive",
        id="download_archive",
        tag="sessions",
        call=sessions.archive,
        needs=Scope.READ,
        headers=("If-None-Match", "Range", "If-Range"),
        replies={
            200: Reply("The zip.", media=("application/zip",), headers=("ETag", "Accept-Ranges")),
            206: Reply(
                "The part of it that was asked for.",
                media=("application/zip",),
                headers=("ETag", "Content-Range"),
            ),
            304: Reply("It is the one that If-None-Match names.", headers=("ETag",)),
        },
        problems=(*_SESSION, Code.ARCHIVE_NOT_FOUND, Code.RANGE_NOT_SATISFIABLE),
    ),
    Operation(
        method="PUT",
        path="/sessions/{session_id}/archive",
        id="upload_archive",
        tag="sessions",
        call=sessions.upload,
        needs=Scope.SUBMIT,
        body="application/zip",
        replies={201: Reply("The session is there.", SessionView, headers=("Location",))},
        problems=(
            *_SESSION,
            Code.SESSION_EXISTS,
            Code.SESSION_BUSY,
            Code.ARCHIVE_REFUSED,
            *_BODY,
        ),
    ),
    Operation(
        method="GET",
        path="/sessions/{session_id}/files",
        id="list_files",
        tag="sessions",
        call=sessions.files,
        needs=Scope.READ,
        replies={200: Reply("The entries of the archive.", FileList)},
        problems=(*_SESSION, Code.ARCHIVE_NOT_FOUND, Code.ARCHIVE_REFUSED),
    ),
    Operation(
        method="GET",
        path="/sessions/{session_id}/files/{path:path}",
        id="download_file",
        tag="sessions",
        call=sessions.file,
        needs=Scope.READ,
        replies={200: Reply("The file.", media=("application/octet-stream",))},
        problems=(*_SESSION, Code.ARCHIVE_NOT_FOUND, Code.FILE_NOT_FOUND, Code.ARCHIVE_REFUSED),
    ),
    Operation(
        method="GET",
        path="/healthz",
        id="healthz",
        tag="service",
        call=service.healthz,
        needs=None,
        replies={200: Reply("The process answers.", Health)},
    ),
    Operation(
        method="GET",
        path="/readyz",
        id="readyz",
        tag="service",
        call=service.readyz,
        needs=None,
        replies={200: Reply("Jobs are run here.", Ready), 503: Reply("They are not.", Ready)},
    ),
    Operation(
        method="GET",
        path="/metrics",
        id="metrics",
        tag="service",
        call=service.metrics,
        needs=Scope.READ,
        replies={200: Reply("Prometheus text.", media=("text/plain",))},
    ),
)
