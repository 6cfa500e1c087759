"""The limits of owners: what a check says, and how long a job waits that one of them holds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.domain.jobs import accepted

from overnight.domain.errors import OwnerBusy
from overnight.domain.standing import (
    HOLD_SECONDS,
    LONGEST_HOLD_SECONDS,
    TRIES_FOR_A_PLACE,
    Standing,
    held_for,
    room_to_run,
    spread,
)

limits, numbers = st.integers(1, 1000), st.integers(0, 1_000_000)


def wait_of(*, held: int, max_running: int) -> float:
    standing = Standing(
        queued=held, processing=max_running, spent_today_usd=0.0, queued_by_all=held, held=held
    )
    with pytest.raises(OwnerBusy) as busy:
        room_to_run(now=0.0)(replace(accepted().job, max_running=max_running), standing)
    return busy.value.wait_seconds


def test_few_held_jobs_try_again_after_half_a_minute() -> None:
    assert wait_of(held=0, max_running=1) == HOLD_SECONDS
    assert wait_of(held=40, max_running=10) == HOLD_SECONDS


def test_twice_as_many_held_jobs_wait_twice_as_long() -> None:
    assert wait_of(held=80, max_running=10) == 2 * HOLD_SECONDS
    assert wait_of(held=160, max_running=10) == 4 * HOLD_SECONDS


@given(limits, numbers)
def test_held_jobs_together_try_no_more_often_the_more_there_are(max_running: int, held: int) -> None:
    """Until each of them waits as long as any may."""
    seconds = held_for(held, max_running=max_running)
    assert HOLD_SECONDS <= seconds <= LONGEST_HOLD_SECONDS
    if seconds < LONGEST_HOLD_SECONDS:
        assert held / seconds <= TRIES_FOR_A_PLACE * max_running / HOLD_SECONDS * (1 + 1e-9)


@given(limits, numbers, numbers)
def test_whoever_waits_among_more_waits_no_shorter(max_running: int, one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert held_for(few, max_running=max_running) <= held_for(many, max_running=max_running)


def test_jobs_that_came_together_do_not_try_together() -> None:
    waits = [spread(HOLD_SECONDS, chance=chance) for chance in (0.0, 0.5, 1.0)]
    assert waits == [0.5 * HOLD_SECONDS, HOLD_SECONDS, 1.5 * HOLD_SECONDS]
