"""Taking a job: written down first, then the bell rings."""

from overnight.domain import transitions
from overnight.domain.job import JobRequest
from overnight.domain.keys import Caller
from overnight.domain.standing import room_to_wait
from overnight.flows.bells import ring
from overnight.ports import Clock, Created, Entropy, Idempotency, JobStore, Queue


async def submit(
    request: JobRequest,
    *,
    session_id: str | None,
    caller: Caller,
    max_queued_by_all: int,
    idempotency: Idempotency | None,
    store: JobStore,
    queue: Queue,
    clock: Clock,
    entropy: Entropy,
) -> Created:
    """Accept a job for the named session, or for a new one. It is durable on return.

    Raises SessionNotFound, LineFull, IdempotencyConflict, TooManyJobs, BudgetExhausted, QueueFull.
    """
    now = clock.now()
    session = session_id or entropy.session_id()
    admit = transitions.submit(
        request,
        job_id=entropy.job_id(),
        session_id=session,
        continues=session_id is not None,
        now=now,
        caller=caller,
    )
    check = room_to_wait(caller.limits, max_queued_by_all=max_queued_by_all, now=now)
    created = await store.create(session, request, admit, idempotency, check=check)
    await ring(queue, created.change.rings)
    return created
