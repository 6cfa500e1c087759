"""A job's events: as JSON pages, or as a stream that replays and then follows."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from overnight.api.access import job_of, still_sees
from overnight.api.bodies import read_query
from overnight.api.parts import ApiParts
from overnight.api.problems import invalid
from overnight.api.requests import EventsQuery
from overnight.api.streams import Stream
from overnight.api.views import EventPage, answer, event_view
from overnight.domain.job import Event, Job

ENDS = frozenset({"job.completed", "job.failed", "job.cancelled"})
REOPENS = "job.resent"
BATCH = 100
HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}

_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


async def events(parts: ApiParts, request: Request) -> ASGIApp:
    """The events of a job with a number above `after`.

    JSON by default. With `Accept: text/event-stream`, server-sent events: those that are there, then each as
    it happens, with no gap and none twice. `Last-Event-ID` goes before `after`. The stream ends after the last
    event of a finished job; asking again after that event gives 204, so that an EventSource stops.
    """
    query = read_query(request, EventsQuery)
    job = (await job_of(parts, request)).job
    if request.method == "HEAD" or "text/event-stream" not in request.headers.get("accept", ""):
        return answer(await _page(parts, job, query))
    after = min(_last_event_id(request, query.after), job.last_event)
    if job.status.final and after >= job.last_event:
        return Response(status_code=204)
    told = while_welcome(follow(parts, job, after), lambda: still_sees(parts, request, job))
    return Stream(told, HEADERS, closing=request.app.state.closing)


async def _page(parts: ApiParts, job: Job, query: EventsQuery) -> EventPage:
    rows = await parts.store.events(job.job_id, after=query.after, limit=query.limit)
    next_after = rows[-1].seq if rows else query.after
    return EventPage(
        [event_view(event, job) for event in rows],
        next_after,
        job.status.final and next_after >= job.last_event,
    )


def _last_event_id(request: Request, after: int) -> int:
    text = request.headers.get("last-event-id")
    if text is None:
        return after
    if _NUMBER.fullmatch(text) is None:
        raise invalid("", "Last-Event-ID must be the number of an event.")
    return int(text)


async def while_welcome(
    text: AsyncGenerator[bytes, None], welcome: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """Ends before the first piece that the reader may not have any more: a heartbeat at the latest."""
    async with aclosing(text):
        async for piece in text:
            if not await welcome():
                return
            yield piece


async def follow(parts: ApiParts, job: Job, after: int) -> AsyncGenerator[bytes, None]:
    """The stream's text. It subscribes before it reads, so nothing falls between replay and live.

    An event that ends the job need not be its last: its archive may be stored later, or it is sent again.
    """
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    loop = asyncio.get_running_loop()
    over, beat_at = job.status.final, loop.time() + HEARTBEAT_SECONDS
    with parts.wakeups.subscribe(f"job:{job.job_id}") as written:
        while True:
            batch = await parts.store.events(job.job_id, after=after, limit=BATCH)
            if batch:
                yield _text(batch, job)
                after, over = batch[-1].seq, _is_over(batch, before=over)
                beat_at = loop.time() + HEARTBEAT_SECONDS
            if len(batch) == BATCH or (over and batch and after < job.last_event):  # or they are large
                continue
            if over:
                return
            await written.wait(max(beat_at - loop.time(), 0.0))
            if loop.time() >= beat_at:  # not only when the wait says so: renewals of the lease wake it too
                yield b": still here\n\n"
                beat_at = loop.time() + HEARTBEAT_SECONDS


def _is_over(batch: Sequence[Event], *, before: bool) -> bool:
    """Whether the job has its final status after these events; `before`: whether it had it until then."""
    for event in reversed(batch):
        if event.type in ENDS or event.type == REOPENS:
            return event.type != REOPENS
    return before


def _text(batch: Sequence[Event], job: Job) -> bytes:
    return b"".join(
        b"id: %d\nevent: %s\ndata: %s\n\n"
        % (event.seq, event.type.encode(), msgspec.json.encode(event_view(event, job)))
        for event in batch
    )
