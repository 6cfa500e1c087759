"""The contract of Wakeups, over every adapter. `twin_wakeups` are those of another process."""

import asyncio

from overnight.ports import Wakeups

PATIENCE = 10.0
"""Seconds that a test waits for something that should happen at once; a failing test is the slow one."""


async def test_a_waiter_wakes_in_the_same_process_and_in_another(
    wakeups: Wakeups, twin_wakeups: Wakeups
) -> None:
    for announcer in (wakeups, twin_wakeups):
        with wakeups.subscribe("job:1") as subscription:
            waiting = asyncio.create_task(subscription.wait(PATIENCE))
            await asyncio.sleep(0)
            announcer.announce("job:1")
            assert await waiting


async def test_every_subscriber_of_a_topic_wakes(wakeups: Wakeups, twin_wakeups: Wakeups) -> None:
    with (
        wakeups.subscribe("queue") as one,
        wakeups.subscribe("queue") as two,
        twin_wakeups.subscribe("queue") as three,
    ):
        wakeups.announce("other", "queue")
        assert await asyncio.gather(*(each.wait(PATIENCE) for each in (one, two, three))) == [True] * 3


async def test_an_announcement_while_nobody_waits_is_not_lost(
    wakeups: Wakeups, twin_wakeups: Wakeups
) -> None:
    with wakeups.subscribe("queue") as subscription:
        wakeups.announce("queue")
        assert await subscription.wait(0.0)
        twin_wakeups.announce("queue")
        assert await subscription.wait(PATIENCE)


async def test_a_wait_ends_after_its_seconds(wakeups: Wakeups) -> None:
    with wakeups.subscribe("queue") as subscription:
        wakeups.announce("other")
        assert not await subscription.wait(0.01)


async def test_an_announcement_wakes_once(wakeups: Wakeups) -> None:
    with wakeups.subscribe("queue") as subscription:
        wakeups.announce("queue")
        wakeups.announce("queue")
        assert await subscription.wait(0.0)
        assert not await subscription.wait(0.01)


async def test_the_end_of_one_subscription_leaves_the_others(wakeups: Wakeups) -> None:
    with wakeups.subscribe("queue") as kept:
        with wakeups.subscribe("queue"):
            pass
        wakeups.announce("queue")
        assert await kept.wait(0.0)
    wakeups.announce("queue")  # nobody is there


async def test_many_topics_at_once(wakeups: Wakeups, twin_wakeups: Wakeups) -> None:
    """More than fit into one datagram."""
    topics = [f"job:{number:032}" for number in range(2_000)]
    with wakeups.subscribe(topics[0]) as first, wakeups.subscribe(topics[-1]) as last:
        twin_wakeups.announce(*topics)
        assert await first.wait(PATIENCE)
        assert await last.wait(PATIENCE)
