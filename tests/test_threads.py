"""Blocking work ends with the call that wanted it, however that ends."""

import asyncio
import threading

import pytest

from overnight.threads import to_its_end

DEADLINE = 30


async def test_its_result_or_error_is_the_calls() -> None:
    assert await to_its_end(lambda _: 7) == 7

    def fails(_: threading.Event) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await to_its_end(fails)


async def test_a_call_that_is_cancelled_again_and_again_still_waits_for_its_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work(called_off: threading.Event) -> None:
        begun.set()
        assert called_off.wait(DEADLINE)
        assert go_on.wait(DEADLINE)
        ended.set()

    call = asyncio.create_task(to_its_end(work))
    assert await asyncio.to_thread(begun.wait, DEADLINE)
    for _ in range(3):
        call.cancel()
        await asyncio.wait([call], timeout=0.01)
        assert not call.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()
