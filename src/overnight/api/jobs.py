"""Calls about jobs and their webhooks."""

from starlette.requests import Request
from starlette.responses import Response

from overnight.api.access import caller_of, job_of
from overnight.api.bodies import read_json, read_query
from overnight.api.parts import ApiParts
from overnight.api.problems import Code, Problem
from overnight.api.requests import (
    JobsQuery,
    execute_decoder,
    idempotency,
    job_id_of,
    job_request,
    named_session,
    refuse_while_draining,
    refuse_without_room,
)
from overnight.api.views import (
    Accepted,
    DeliveryList,
    JobPage,
    answer,
    delivery_view,
    job_summary,
    job_view,
)
from overnight.domain.ids import InvalidId, parse_delivery_id
from overnight.flows.cancel import cancel, owe_again, resend
from overnight.flows.submit import submit


async def execute(parts: ApiParts, request: Request) -> Response:
    """Queue a prompt for Claude Code.

    The job is on disk when the answer leaves. With an `Idempotency-Key`, sending the same body again within
    seven days gives the first answer again (and `Idempotent-Replayed: true`), however often and in parallel;
    another body under the same key is refused.
    """
    refuse_while_draining(parts)
    refuse_without_room(parts)
    caller, limits = caller_of(request), parts.limits
    body = await read_json(request, execute_decoder, limit=limits.max_body_bytes, seconds=limits.body_seconds)
    created = await submit(
        job_request(body, policy=parts.callback_policy, limits=limits, models=caller.limits.models),
        session_id=named_session(body.session_id),
        caller=caller,
        max_queued_by_all=limits.max_queued,
        idempotency=idempotency(request, body, caller.owner),
        store=parts.store,
        queue=parts.queue,
        clock=parts.clock,
        entropy=parts.entropy,
    )
    job = created.change.job
    headers = {"Location": f"/status/{job.job_id}"}
    if created.replayed:
        headers["Idempotent-Replayed"] = "true"
    return answer(Accepted(job_id=job.job_id, session_id=job.session_id), 202, headers)


async def status(parts: ApiParts, request: Request) -> Response:
    """A job as it is now."""
    return answer(job_view(await job_of(parts, request)))


async def listing(parts: ApiParts, request: Request) -> Response:
    """Jobs, newest first, without their results."""
    query = read_query(request, JobsQuery)
    page = await parts.index.jobs(
        statuses=query.status,
        session_id=named_session(query.session_id),
        owner=caller_of(request).lists,
        limit=query.limit,
        before=_job_cursor(query.cursor),
    )
    return answer(JobPage([job_summary(row) for row in page.rows], page.next))


def _job_cursor(cursor: str | None) -> str | None:
    try:
        return named_session(cursor)
    except Problem:
        raise Problem(Code.INVALID_CURSOR) from None


async def cancel_job(parts: ApiParts, request: Request) -> Response:
    """Cancel a job in whatever state it is. Idempotent.

    A waiting job is cancelled at once (200). A running one is asked to stop (202): its status changes when the
    run has ended, and what it had made is kept. A finished job stays as it is (200).
    """
    snapshot = await cancel(
        job_id_of(request),
        caller=caller_of(request),
        store=parts.store,
        queue=parts.queue,
        clock=parts.clock,
        entropy=parts.entropy,
    )
    return answer(job_view(snapshot), 200 if snapshot.job.status.final else 202)


async def retry_job(parts: ApiParts, request: Request) -> Response:
    """Send a failed job again, at the end of its session's line and with its limits reset.

    Idempotent: a job that is open already stays as it is.
    """
    snapshot = await resend(
        job_id_of(request),
        caller=caller_of(request),
        max_queued_by_all=parts.limits.max_queued,
        store=parts.store,
        queue=parts.queue,
        clock=parts.clock,
    )
    return answer(job_view(snapshot), 202)


async def deliveries(parts: ApiParts, request: Request) -> Response:
    """The webhooks of a job and every try at them."""
    job = (await job_of(parts, request)).job
    rows = await parts.store.deliveries(job.job_id)
    return answer(DeliveryList([delivery_view(row) for row in rows]))


async def redeliver(parts: ApiParts, request: Request) -> Response:
    """Owe a webhook again, from now and with the whole schedule of tries before it."""
    try:
        delivery_id = parse_delivery_id(request.path_params["delivery_id"])
    except InvalidId:
        raise Problem(Code.DELIVERY_NOT_FOUND) from None
    owed = await owe_again(delivery_id, caller=caller_of(request), store=parts.store, clock=parts.clock)
    return answer(delivery_view(owed), 202)
