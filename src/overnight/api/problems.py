"""Every refusal the API can answer: RFC 9457 problems with a code that stays the same.

A problem never repeats what the caller sent: an answer ends up in logs, and the input may be a secret.
"""

import errno
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from overnight.archive import ArchiveRefused
from overnight.domain.callback_url import CallbackUrlRefused
from overnight.domain.errors import (
    BudgetExhausted,
    DeliveryNotFound,
    IdempotencyConflict,
    JobNotFound,
    LineFull,
    NotRetryable,
    QueueFull,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    TooManyJobs,
)
from overnight.domain.redaction import Redactor
from overnight.ports import ArchiveTooLarge, StorageError, StorageFull


class Code(StrEnum):
    """What went wrong. The list can grow: accept codes that you do not know."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    INVALID_ID = "invalid_id"
    INVALID_CURSOR = "invalid_cursor"
    INVALID_IDEMPOTENCY_KEY = "invalid_idempotency_key"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    CALLBACK_URL_REFUSED = "callback_url_refused"
    ARCHIVE_REFUSED = "archive_refused"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    HOST_NOT_ALLOWED = "host_not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_SERVED = "not_served"
    JOB_NOT_FOUND = "job_not_found"
    SESSION_NOT_FOUND = "session_not_found"
    DELIVERY_NOT_FOUND = "delivery_not_found"
    ARCHIVE_NOT_FOUND = "archive_not_found"
    FILE_NOT_FOUND = "file_not_found"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    SESSION_EXISTS = "session_exists"
    SESSION_BUSY = "session_busy"
    NOT_RETRYABLE = "not_retryable"
    LINE_FULL = "line_full"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_JOBS = "too_many_jobs"
    BUDGET_EXHAUSTED = "budget_exhausted"
    HEADERS_TOO_LARGE = "headers_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    QUEUE_FULL = "queue_full"
    DRAINING = "draining"
    STORAGE_FAILED = "storage_failed"
    STORAGE_FULL = "storage_full"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Kind:
    """`meaning` says what happened and what to do; it is the detail of a problem that has no better one."""

    status: int
    title: str
    meaning: str
    retry_after: int | None = None


KINDS: Mapping[Code, Kind] = {
    Code.UNAUTHENTICATED: Kind(
        401,
        "An API key is needed",
        "Send a key of this service as `Authorization: Bearer ovn_...`; the command line takes it from "
        "OVERNIGHT_API_KEY. The one that came, if one did, is unknown, revoked or expired. Nothing was done.",
    ),
    Code.FORBIDDEN: Kind(
        403,
        "The key does not allow this",
        "The key has not the scope that this call needs. Nothing was done.",
    ),
    Code.MODEL_NOT_ALLOWED: Kind(
        403,
        "The key does not allow this model",
        "Name a model that the key allows, or none: then it is the first of them. Nothing was done.",
    ),
    Code.INVALID_JSON: Kind(
        400,
        "The body is not JSON",
        "The body must be one JSON object in UTF-8, without duplicate names, NaN, Infinity or half surrogate "
        "pairs, and not nested too deeply. Nothing was done.",
    ),
    Code.INVALID_REQUEST: Kind(
        422,
        "The request does not fit",
        "A field, a query parameter or a header does not have the form that /docs describes; `errors` says "
        "which. Nothing was done.",
    ),
    Code.INVALID_ID: Kind(
        422, "That is not an id", "An id is a UUID in lower case: 8-4-4-4-12 hexadecimal digits."
    ),
    Code.INVALID_CURSOR: Kind(
        422, "That is not a cursor", "Send `next_cursor` of the page before, unchanged, or no cursor at all."
    ),
    Code.INVALID_IDEMPOTENCY_KEY: Kind(
        422,
        "The Idempotency-Key does not fit",
        "Idempotency-Key must have 1 to 255 visible ASCII characters and be sent once. Nothing was done.",
    ),
    Code.IDEMPOTENCY_KEY_REUSED: Kind(
        422,
        "The Idempotency-Key was used for something else",
        "The key came with another body before. Nothing was done: use a new key for a new job.",
    ),
    Code.CALLBACK_URL_REFUSED: Kind(
        422,
        "The callback_url is refused",
        "Webhooks go to public https addresses only, unless the operator allows more (docs/webhooks.md). "
        "Nothing was done.",
    ),
    Code.ARCHIVE_REFUSED: Kind(
        422,
        "The archive is refused",
        "The zip is broken, too large when unpacked, or holds names or links that could reach outside the "
        "workspace. Nothing was kept.",
    ),
    Code.UNSUPPORTED_MEDIA_TYPE: Kind(
        415,
        "The body has another form",
        "Send JSON as application/json in UTF-8, an archive as application/zip, both without "
        "Content-Encoding. Nothing was done.",
    ),
    Code.BODY_TOO_LARGE: Kind(
        413, "The body is too large", "The body is over the limit of this service. Nothing was kept."
    ),
    Code.HOST_NOT_ALLOWED: Kind(
        421,
        "The service does not answer to this name",
        "The Host header names another host. Use an address that the service prints when it starts.",
    ),
    Code.NOT_FOUND: Kind(
        404, "There is nothing here", "The service has no such page; /docs lists its calls."
    ),
    Code.METHOD_NOT_ALLOWED: Kind(
        405, "The method does not fit", "The path exists, but not with this method; see the Allow header."
    ),
    Code.NOT_SERVED: Kind(
        501,
        "This front does not serve the call",
        "A front at Cloudflare keeps no list of jobs or sessions and holds no archives; /docs lists its calls. Ask for "
        "a job or a session by its id. Archives are in the store that the workers write to. Nothing was done.",
    ),
    Code.JOB_NOT_FOUND: Kind(404, "There is no such job", "No job has this id. Was its session deleted?"),
    Code.SESSION_NOT_FOUND: Kind(
        404,
        "There is no such session",
        "No session has this id. Leave session_id out to start a new session. Nothing was done.",
    ),
    Code.DELIVERY_NOT_FOUND: Kind(
        404, "There is no such delivery", "No delivery has this id. Was its session deleted?"
    ),
    Code.ARCHIVE_NOT_FOUND: Kind(
        404,
        "The session has no archive",
        "An archive is there once a job of the session has been saved; if one was, it is gone from the store.",
    ),
    Code.FILE_NOT_FOUND: Kind(
        404,
        "There is no such file",
        "The session's archive has no regular file of exactly this name; /sessions/{session_id}/files lists it.",
    ),
    Code.RANGE_NOT_SATISFIABLE: Kind(
        416,
        "The archive has no such bytes",
        "`Range` begins behind its end: you have all of it if its ETag is the one you know. Nothing was sent.",
    ),
    Code.SESSION_EXISTS: Kind(
        409,
        "The id is taken",
        "An archive can only start a new session, and not under this id. Nothing was changed: choose another UUID.",
    ),
    Code.SESSION_BUSY: Kind(
        409,
        "The session is at work",
        "Jobs of the session are still open. Wait for them or cancel them first. Nothing was changed.",
    ),
    Code.NOT_RETRYABLE: Kind(
        409, "The job cannot be sent again", "Only a failed job can be. Send its prompt as a new job instead."
    ),
    Code.LINE_FULL: Kind(
        429,
        "The session has too many open jobs",
        "Wait until some of the session's jobs have finished. Nothing was done.",
        retry_after=60,
    ),
    Code.RATE_LIMITED: Kind(
        429,
        "Too many requests",
        "The key may send only so many requests a minute. Nothing was done: send it again a little later.",
        retry_after=1,
    ),
    Code.TOO_MANY_JOBS: Kind(
        429,
        "Too many waiting jobs",
        "As many jobs wait as the key allows its owner. Nothing was done: send it again when some have run.",
        retry_after=30,
    ),
    Code.BUDGET_EXHAUSTED: Kind(
        429,
        "The budget of the day is spent",
        "The owner's jobs have cost today what the key allows. Nothing was done: it allows more from midnight "
        "UTC on.",
    ),
    Code.HEADERS_TOO_LARGE: Kind(
        431,
        "The headers are too large",
        "A request may have 100 headers of 16 KiB together, and a target of 8 KiB. Nothing was done.",
    ),
    Code.REQUEST_TIMEOUT: Kind(
        408,
        "The body did not come in time",
        "The service waits a minute for a JSON body, and as long for each piece of an archive. Nothing was kept.",
    ),
    Code.QUEUE_FULL: Kind(
        503,
        "The service has too many waiting jobs",
        "It takes no new ones until some have run. Nothing was done: send it again a little later.",
        retry_after=30,
    ),
    Code.DRAINING: Kind(
        503,
        "The service is shutting down",
        "It takes no new jobs; those it has are kept. Try again in a moment. Nothing was done.",
        retry_after=5,
    ),
    Code.STORAGE_FAILED: Kind(
        503,
        "The storage failed",
        "The service could not read or write its data. Whether the request was carried out is not known: "
        "send it again with the same Idempotency-Key.",
        retry_after=10,
    ),
    Code.STORAGE_FULL: Kind(
        507, "The disk is full", "The service has no room left. Nothing was done.", retry_after=60
    ),
    Code.INTERNAL: Kind(
        500,
        "Something went wrong in the service",
        "The service's log has the reason under this request_id.",
    ),
}


class Fault(Struct, frozen=True):
    """One thing that does not fit. `pointer` is a JSON pointer into the body; "" is the whole of it."""

    pointer: str
    detail: str


class ProblemView(Struct, frozen=True, kw_only=True, rename={"kind": "type"}):
    """Why a request was refused (RFC 9457). It never repeats what was sent."""

    kind: Annotated[str, Meta(description="Where the code is explained, on this service.")]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What happened, what was kept, what to do next.")]
    code: Code
    request_id: Annotated[str, Meta(description="The same as X-Request-Id; the service's log has it.")]
    errors: tuple[Fault, ...] = ()


class Problem(Exception):
    """Raised anywhere below a call; the front of the API turns it into the answer."""

    def __init__(
        self,
        code: Code,
        detail: str | None = None,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.kind = KINDS[code]
        self.detail = detail or self.kind.meaning
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def invalid(pointer: str, detail: str) -> Problem:
    return Problem(Code.INVALID_REQUEST, errors=[Fault(pointer, detail)])


_REFUSALS: Mapping[type[Exception], Code] = {
    JobNotFound: Code.JOB_NOT_FOUND,
    SessionNotFound: Code.SESSION_NOT_FOUND,
    DeliveryNotFound: Code.DELIVERY_NOT_FOUND,
    SessionExists: Code.SESSION_EXISTS,
    SessionBusy: Code.SESSION_BUSY,
    NotRetryable: Code.NOT_RETRYABLE,
    LineFull: Code.LINE_FULL,
    TooManyJobs: Code.TOO_MANY_JOBS,
    QueueFull: Code.QUEUE_FULL,
    IdempotencyConflict: Code.IDEMPOTENCY_KEY_REUSED,
    StorageFull: Code.STORAGE_FULL,
    StorageError: Code.STORAGE_FAILED,
}


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def problem_of(error: Exception) -> Problem | None:
    """The problem that an exception means; None if it is a fault of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CallbackUrlRefused):
        return Problem(Code.CALLBACK_URL_REFUSED, errors=[Fault("/callback_url", error.message)])
    if isinstance(error, ArchiveRefused):
        return Problem(Code.ARCHIVE_REFUSED, str(error))
    if isinstance(error, ArchiveTooLarge):
        return Problem(Code.BODY_TOO_LARGE, str(error))
    if isinstance(error, BudgetExhausted):
        return Problem(Code.BUDGET_EXHAUSTED, headers={"Retry-After": str(math.ceil(error.wait_seconds))})
    for kind, code in _REFUSALS.items():
        if isinstance(error, kind):
            return Problem(code)
    if isinstance(error, OSError):  # of the archive store, or of the scratch directory
        return Problem(Code.STORAGE_FULL if error.errno in _FULL else Code.STORAGE_FAILED)
    return None


def answer_to(problem: Problem, request_id: str, redactor: Redactor) -> Response:
    kind = problem.kind
    view = ProblemView(
        kind=f"/docs/problems#{problem.code}",
        title=kind.title,
        status=kind.status,
        detail=redactor.text(problem.detail),
        code=problem.code,
        request_id=request_id,
        errors=tuple(Fault(fault.pointer, redactor.text(fault.detail)) for fault in problem.errors),
    )
    headers = problem.headers | {"Cache-Control": "no-store"}
    if kind.retry_after is not None:
        headers.setdefault("Retry-After", str(kind.retry_after))
    return Response(msgspec.json.encode(view), kind.status, headers, "application/problem+json")
