"""A worker over a queue that counts how often a message was pulled, and gives up on those pulled too often."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from overnight.adapters.cloudflare.queue import QueueAddress, cloudflare_queue
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Change, Job, Status, WaitingFor
from overnight.domain.outcome import Ending, Outcome
from overnight.flows.run_job import TROUBLE_SECONDS
from overnight.ports import Bell, StorageFailed
from overnight.rehearsal.pull_queue import pull_queue_app
from overnight.serving import listen, serving, url_of

MAX_RETRIES = 2
LONGEST_DELAY_SECONDS = 12 * 3600
"""Of a message: a job that waits longer is rung for too early."""


Dead = Callable[[], Awaitable[list[int]]]


@pytest.fixture
async def pull_url(world: Any) -> AsyncIterator[str]:
    listener = listen("127.0.0.1", 0)
    app = pull_queue_app("token", world.clock.now, max_retries=MAX_RETRIES)
    async with serving(app, listener, grace_seconds=1.0):
        yield url_of(listener)
    listener.close()


@pytest.fixture
async def pulled(world: Any, pull_url: str) -> AsyncIterator[Any]:
    """The world with the pull consumer for its queue."""
    address = QueueAddress(account_id="a", queue_id="q")
    async with cloudflare_queue(pull_url, "token", address, world.clock) as queue:
        world.queue = queue
        yield world


@pytest.fixture
def dead(pull_url: str) -> Dead:
    """How often each dead letter was pulled."""

    async def ask() -> list[int]:
        headers = {"Authorization": "Bearer token"}
        async with httpx.AsyncClient(base_url=pull_url, headers=headers, trust_env=False) as asking:
            answer = await asking.get("/bridge/q/dead")
        return [letter["attempts"] for letter in answer.json()["result"]["messages"]]

    return ask


async def test_a_call_that_fails_is_not_made_again_while_a_lease_runs(world: Any) -> None:
    """The client's own pauses would take longer than a lease that nobody renews yet."""
    asked: list[str] = []

    async def broken(request: Request) -> Response:
        asked.append(request.url.path)
        return Response(status_code=500)

    listener = listen("127.0.0.1", 0)
    app = Starlette(routes=[Route("/{path:path}", broken, methods=["POST"])])
    address = QueueAddress(account_id="a", queue_id="q")
    async with (
        serving(app, listener, grace_seconds=1.0),
        cloudflare_queue(url_of(listener), "token", address, world.clock) as queue,
    ):
        with pytest.raises(StorageFailed):
            await queue.ack(Bell(job_id="j", receipt="r", rung=1))
    listener.close()
    assert asked == ["/accounts/a/queues/q/messages/ack"]


async def test_a_job_that_waits_for_days_is_no_dead_letter(pulled: Any, agents: Any, dead: Dead) -> None:
    job: Job = await pulled.submit()
    days = MAX_RETRIES + 3
    limited = Outcome(
        ending=Ending.FAILED, code=ErrorCode.RATE_LIMITED, resume_at=pulled.clock.now() + days * 86400.0
    )

    async def until_then(*_: Any) -> Outcome:
        return limited

    await pulled.run_next(until_then)
    waiting = await pulled.job(job.job_id)
    assert waiting.waiting_for is WaitingFor.RATE_LIMIT
    rung = 0
    while pulled.clock.time + LONGEST_DELAY_SECONDS < waiting.available_at:
        pulled.clock.time += LONGEST_DELAY_SECONDS
        await pulled.run_next()
        rung += 1
    assert rung > MAX_RETRIES + 1
    pulled.clock.time = waiting.available_at + 1  # delays are whole seconds
    await pulled.run_next(agents.writes("a", "a", agents.done()))
    assert (await pulled.job(job.job_id)).status is Status.COMPLETED
    assert not await dead()


class ReadOnly:
    """A store that can be read and not written to."""

    def __init__(self, store: Any) -> None:
        self.snapshot = store.snapshot

    async def change(self, *_: Any, **__: Any) -> Change:
        raise StorageFailed("The ledger could not be reached.")


async def test_a_job_that_no_worker_can_claim_is_tried_ever_more_seldom_and_then_a_dead_letter(
    pulled: Any, dead: Dead
) -> None:
    job: Job = await pulled.submit()
    pulled.store = ReadOnly(pulled.store)
    pause = TROUBLE_SECONDS
    for _ in range(MAX_RETRIES + 1):
        with pytest.raises(StorageFailed):
            await pulled.run_next()
        pulled.clock.time += pause - 1
        assert await pulled.silence()
        pulled.clock.time += 1
        pause *= 2
    assert await pulled.silence()
    assert await dead() == [MAX_RETRIES + 1]
    assert (await pulled.job(job.job_id)).status is Status.QUEUED
