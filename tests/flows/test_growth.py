"""A file that grows is told of in order, to its end or its failure."""

import asyncio

import pytest

from overnight.flows.growth import GrowingFile
from overnight.ports import Growth, whole


async def test_a_waiter_hears_of_every_growth_and_of_the_end() -> None:
    file = GrowingFile()
    growth: Growth = file
    first = asyncio.create_task(growth.beyond(0))
    await asyncio.to_thread(file.wrote, 10)
    assert await first == (10, False)
    assert await growth.beyond(9) == (10, False)
    second = asyncio.create_task(growth.beyond(10))
    await asyncio.sleep(0)
    assert not second.done()
    file.finish(10)
    assert await second == (10, True)
    await whole(growth)


async def test_a_failure_reaches_who_waits_and_who_comes_later() -> None:
    file = GrowingFile()
    waiting = asyncio.create_task(whole(file))
    await asyncio.to_thread(file.wrote, 5)
    await asyncio.sleep(0)
    file.fail(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        await waiting
    with pytest.raises(OSError, match="disk full"):
        await file.beyond(0)
