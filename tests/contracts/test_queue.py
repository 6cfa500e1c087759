"""The contract of Queue, over every adapter. `twin_queue` is the queue as another process sees it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from overnight.domain.job import Job
from overnight.domain.transitions import cancel
from overnight.ports import Bell, Clock, Entropy, JobStore, Queue

PATIENCE = 10.0
"""Seconds that a test waits for something that should happen at once; a failing test is the slow one."""


async def due(queue: Queue, *, limit: int = 10, visibility_seconds: float = 30.0) -> Sequence[Bell]:
    return await queue.receive(limit=limit, visibility_seconds=visibility_seconds, wait_seconds=0.0)


async def test_a_bell_that_was_sent_is_received_once(
    queue: Queue, twin_queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    job_id = entropy.job_id()
    await queue.send(job_id, at=clock.now())
    (bell,) = await due(twin_queue)
    assert (bell.job_id, bell.rung) == (job_id, 1)
    assert not await due(queue)


async def test_bells_come_earliest_first_and_no_more_than_asked_for(
    queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    now = clock.now()
    late, early, middle = (entropy.job_id() for _ in range(3))
    for job_id, age in ((late, 1), (early, 3), (middle, 2)):
        await queue.send(job_id, at=now - age)
    assert [bell.job_id for bell in await due(queue, limit=2)] == [early, middle]
    assert [bell.job_id for bell in await due(queue, limit=2)] == [late]


async def test_each_bell_goes_to_one_of_many_receivers(
    queue: Queue, twin_queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    sent = {entropy.job_id() for _ in range(40)}
    for job_id in sent:
        await queue.send(job_id, at=clock.now())
    taken = await asyncio.gather(*(due(one, limit=7) for one in [queue, twin_queue] * 4))
    received = [bell.job_id for bells in taken for bell in bells]
    assert len(received) == len(set(received))
    assert set(received) == sent


async def test_a_bell_does_not_ring_before_its_time(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    await queue.send(entropy.job_id(), at=clock.now() + 60)
    assert not await due(queue)
    tick(61)
    assert len(await due(queue)) == 1


async def test_sending_again_keeps_the_earlier_time(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    first, second = entropy.job_id(), entropy.job_id()
    now = clock.now()
    for job_id, times in ((first, (60, 600)), (second, (600, 60))):
        for seconds in times:
            await queue.send(job_id, at=now + seconds)
    tick(61)
    assert {bell.job_id for bell in await due(queue)} == {first, second}


async def test_a_bell_that_is_neither_acked_nor_retried_comes_again(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    job_id = entropy.job_id()
    await queue.send(job_id, at=clock.now())
    (first,) = await due(queue, visibility_seconds=30)
    tick(29)
    assert not await due(queue)
    tick(2)
    (second,) = await due(queue)
    assert (second.job_id, second.rung) == (job_id, 2)
    assert second.receipt != first.receipt


async def test_an_acked_bell_is_gone(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    await queue.send(entropy.job_id(), at=clock.now())
    (bell,) = await due(queue)
    await queue.ack(bell)
    await queue.ack(bell)
    tick(3600)
    assert not await due(queue)


async def test_a_retried_bell_rings_at_its_new_time(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    await queue.send(entropy.job_id(), at=clock.now())
    (bell,) = await due(queue, visibility_seconds=3600)
    await queue.retry(bell, at=clock.now() + 60)
    assert not await due(queue)
    tick(61)
    (again,) = await due(queue)
    assert (again.job_id, again.rung) == (bell.job_id, 2)


async def test_a_receipt_that_is_no_longer_current_is_ignored(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    await queue.send(entropy.job_id(), at=clock.now())
    (stale,) = await due(queue, visibility_seconds=30)
    tick(31)
    (current,) = await due(queue, visibility_seconds=30)
    await queue.ack(stale)
    await queue.retry(stale, at=clock.now() - 1)
    assert not await due(queue)
    tick(31)
    (again,) = await due(queue)
    assert (again.job_id, again.rung) == (current.job_id, 3)


async def test_a_bell_sent_while_it_is_held_survives_the_ack_of_the_held_one(
    queue: Queue, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    """A worker that puts a job back rings first and acks after: the new bell must not go with the old one."""
    job_id = entropy.job_id()
    await queue.send(job_id, at=clock.now())
    (held,) = await due(queue, visibility_seconds=30)
    await queue.send(job_id, at=clock.now() + 60)
    await queue.ack(held)
    assert not await due(queue)
    tick(61)
    assert [bell.job_id for bell in await due(queue)] == [job_id]


async def test_receive_returns_after_its_wait_if_nothing_rings(
    queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    await queue.send(entropy.job_id(), at=clock.now() + 3600)
    async with asyncio.timeout(PATIENCE):
        assert not await queue.receive(limit=1, visibility_seconds=30, wait_seconds=0.02)


async def test_a_waiting_receiver_wakes_when_a_bell_is_sent(
    queue: Queue, twin_queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    async with asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(queue.receive(limit=1, visibility_seconds=30, wait_seconds=3600))
        await asyncio.sleep(0)
        await twin_queue.send(job_id := entropy.job_id(), at=clock.now())
        assert [bell.job_id for bell in await waiting] == [job_id]


async def test_a_waiting_receiver_wakes_when_a_bell_falls_due(
    queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    at = clock.now() + 0.05
    async with asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(queue.receive(limit=1, visibility_seconds=30, wait_seconds=3600))
        await queue.send(entropy.job_id(), at=at)
        assert len(await waiting) == 1
    assert clock.now() >= at


async def test_a_waiting_receiver_wakes_when_a_held_bell_comes_back(
    queue: Queue, clock: Clock, entropy: Entropy
) -> None:
    await queue.send(entropy.job_id(), at=clock.now())
    (held,) = await due(queue, visibility_seconds=0.05)
    async with asyncio.timeout(PATIENCE):
        (again,) = await queue.receive(limit=1, visibility_seconds=30, wait_seconds=3600)
    assert (again.job_id, again.rung) == (held.job_id, 2)


async def test_a_waiting_receiver_can_be_cancelled(queue: Queue, clock: Clock, entropy: Entropy) -> None:
    waiting = asyncio.create_task(queue.receive(limit=1, visibility_seconds=30, wait_seconds=3600))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=PATIENCE)
    assert waiting.cancelled()
    await queue.send(entropy.job_id(), at=clock.now())
    assert len(await due(queue)) == 1


async def test_every_bell_of_a_change_is_either_rung_or_left_to_the_caller(
    store: JobStore, queue: Queue, clock: Clock, submitted: Callable[..., Awaitable[Job]]
) -> None:
    first = await submitted(store)
    second = await submitted(store, session_id=first.session_id, continues=True)
    for _ in range(2):
        for bell in await queue.receive(limit=9, visibility_seconds=60, wait_seconds=0):
            await queue.ack(bell)
    change = await store.change(first.job_id, cancel(now=clock.now(), delivery_id="msg_1"))
    assert [ring.job_id for ring in change.rings] in ([], [second.job_id])
    for ring in change.rings:
        await queue.send(ring.job_id, at=ring.at)
    [bell] = await queue.receive(limit=9, visibility_seconds=60, wait_seconds=0)
    assert bell.job_id == second.job_id
