"""The limits of owners: who waits for what, who is let in, and what a day has left while runs use it up."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.errors import ErrorCode
from overnight.domain.job import JobRequest, Status, WaitingFor
from overnight.domain.keys import Caller, KeyLimits, Scope
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.standing import HOLD_SECONDS, day_of, next_day
from overnight.flows.limits import Budgets
from overnight.ports import Books, RunOrder, Workspace


def alice(**limits: Any) -> Caller:
    scopes = frozenset({Scope.SUBMIT})
    return Caller(owner="alice", scopes=scopes, key_id="ovn_a", limits=KeyLimits(**limits))


async def test_a_job_over_its_owners_limit_says_so_and_runs_as_soon_as_another_ends(
    world: Any, agents: Any
) -> None:
    caller = alice(max_running=1)
    first, second = await world.submit(caller=caller), await world.submit(caller=caller)

    async def meanwhile(order: Any, emit: Any, stop: Any) -> Any:
        await world.runner().run(await world.bell(), leaving=world.leaving)
        held = await world.job(second.job_id)
        assert (held.status, held.waiting_for) == (Status.QUEUED, WaitingFor.OWNER_LIMIT)
        await world.sweep().once()
        assert await world.silence(), "neither a poll nor the sweep asks for it again"
        return agents.done()

    await world.run_next(meanwhile)
    assert (await world.job(first.job_id)).status is Status.COMPLETED
    await world.run_next(agents.writes("a", "a", agents.done()))  # at once: no time has passed
    job = await world.job(second.job_id)
    assert (job.status, job.attempt, job.waiting_for) == (Status.COMPLETED, 1, None)


async def test_a_job_that_nobody_let_in_is_tried_again_in_a_while(world: Any, agents: Any) -> None:
    caller = alice(max_running=1)
    lost, waiting = await world.submit(caller=caller), await world.submit(caller=caller)

    async def meanwhile(order: Any, emit: Any, stop: Any) -> Any:
        await world.runner().run(await world.bell(), leaving=world.leaving)
        world.clock.time += HOLD_SECONDS
        assert (await world.bell()).job_id == waiting.job_id
        return agents.done()

    await world.run_next(meanwhile)
    assert (await world.job(lost.job_id)).status is Status.COMPLETED


async def test_a_lost_worker_makes_room_too(world: Any, agents: Any) -> None:
    caller = alice(max_running=1)
    lost, waiting = await world.submit(caller=caller), await world.submit(caller=caller)

    async def meanwhile(order: Any, emit: Any, stop: Any) -> Any:
        await world.runner().run(await world.bell(), leaving=world.leaving)
        world.roster.dead.add("worker-1")
        await world.sweep().once()
        rung = await world.queue.receive(limit=9, visibility_seconds=30, wait_seconds=0)
        assert {bell.job_id for bell in rung} == {lost.job_id, waiting.job_id}
        return agents.done()

    await world.run_next(meanwhile)


async def test_jobs_wait_for_tomorrow_when_the_day_has_no_money_left(world: Any, agents: Any) -> None:
    caller = alice(daily_budget_usd=1.0)
    first, second = await world.submit(caller=caller), await world.submit(caller=caller)
    midnight = next_day(world.clock.now())

    async def stopped(order: Any, emit: Any, stop: Any) -> Outcome:
        assert (order.owner, order.daily_budget_usd) == ("alice", 1.0)
        return Outcome(
            ending=Ending.FAILED,
            code=ErrorCode.DAILY_BUDGET_EXCEEDED,
            message="the day's budget",
            cost_usd=1.5,
        )

    await world.run_next(stopped)
    await world.runner().run(await world.bell(), leaving=world.leaving)

    one, two = await world.job(first.job_id), await world.job(second.job_id)
    assert [(job.status, job.waiting_for) for job in (one, two)] == [(Status.QUEUED, WaitingFor.BUDGET)] * 2
    assert (one.attempt, one.failures, two.attempt) == (1, 0, 0)
    assert one.available_at >= midnight
    assert two.available_at == pytest.approx(midnight)
    assert await world.kinds(first.job_id) == [
        "job.queued",
        "job.started",
        "workspace.ready",
        "job.over_daily_budget",
    ]
    world.clock.time = midnight + 10.0
    await world.run_next(agents.writes("a", "a", agents.done()))
    await world.run_next(agents.writes("a", "a", agents.done()))
    assert {(await world.job(job.job_id)).status for job in (one, two)} == {Status.COMPLETED}


async def test_a_job_that_waited_for_money_for_too_long_fails(world: Any) -> None:
    job = await world.submit(caller=alice(daily_budget_usd=1.0))
    world.clock.time += world.policy.rate_limit_patience

    async def stopped(order: Any, emit: Any, stop: Any) -> Outcome:
        return failed(ErrorCode.DAILY_BUDGET_EXCEEDED, "the day's budget")

    await world.run_next(stopped)
    end = await world.job(job.job_id)
    assert (end.status, end.error.code) == (Status.FAILED, ErrorCode.DAILY_BUDGET_EXCEEDED)


class Ledger:
    """The port `Owners` of one owner whose books a test writes."""

    def __init__(self) -> None:
        self.spent: dict[int, float] = {}
        self.running: set[tuple[str, int]] = set()
        self.read: list[str] = []

    async def books(self, owner: str, *, day: int) -> Books:
        self.read.append(owner)
        return Books(spent_usd=self.spent.get(day, 0.0), running=frozenset(self.running))

    async def held(self, owner: str, *, limit: int) -> list[str]:
        return []


def order(job_id: str, *, budget: float | None = 10.0, owner: str = "alice") -> RunOrder:
    nowhere = Path("nowhere")
    return RunOrder(
        job_id=job_id,
        attempt=1,
        session_id="s",
        prompt="p",
        request=JobRequest(prompt="p"),
        workspace=Workspace(root=nowhere, files=nowhere, home=nowhere, transcripts=nowhere),
        owner=owner,
        daily_budget_usd=budget,
    )


async def test_runs_of_an_owner_share_what_the_day_has_left(world: Any) -> None:
    ledger = Ledger()
    ledger.spent[day_of(world.clock.now())] = 1.0
    budgets = Budgets(ledger, world.clock)
    async with (
        budgets.opened(order("a")) as left_for_a,
        budgets.opened(order("b")) as left_for_b,
        budgets.opened(order("c", owner="bob")) as left_for_bob,
    ):
        assert left_for_a(2.0) == 9.0
        assert left_for_b(3.0) == 7.0
        assert left_for_a(2.5) == 6.0
        assert left_for_bob(0.0) == 9.0


async def test_a_key_without_a_budget_is_never_out_of_money(world: Any) -> None:
    async with Budgets(Ledger(), world.clock).opened(order("a", budget=None)) as left:
        assert left(1e9) is None


async def test_the_books_are_read_for_those_only_whose_runs_they_hold(world: Any) -> None:
    """Where the books are in a ledger each look is paid for."""
    ledger = Ledger()
    budgets = Budgets(ledger, world.clock)
    async with budgets.opened(order("a", budget=None)), budgets.opened(order("b", owner="bob")):
        ledger.read = []
        await budgets.refresh()
    await budgets.refresh()
    await budgets.refresh()
    assert ledger.read == ["bob", "bob"]


async def test_what_a_run_has_used_counts_once_before_and_after_it_is_in_the_books(world: Any) -> None:
    ledger, today = Ledger(), day_of(world.clock.now())
    budgets = Budgets(ledger, world.clock)
    ledger.running = {("a", 1), ("b", 1)}
    async with budgets.opened(order("b")) as left:
        async with budgets.opened(order("a")) as left_for_a:
            left_for_a(4.0)
        for _ in range(2):
            assert left(0.0) == 6.0, "its workspace is still being saved"
            await budgets.refresh()
        ledger.running, ledger.spent[today] = {("b", 1)}, 4.0
        assert left(0.0) == 6.0
        await budgets.refresh()
        assert left(0.0) == 6.0


async def test_a_new_day_has_a_whole_budget(world: Any) -> None:
    ledger = Ledger()
    ledger.spent[day_of(world.clock.now())] = 10.0
    budgets = Budgets(ledger, world.clock)
    async with budgets.opened(order("a")) as left:
        assert left(1.0) == 0.0
        world.clock.time = next_day(world.clock.now())
        await budgets.refresh()
        assert left(1.0) == 10.0


@given(now=st.floats(min_value=0, max_value=4e9))
def test_the_next_day_begins_at_a_midnight_that_is_still_to_come(now: float) -> None:
    assert 0 < next_day(now) - now <= 86400
    assert next_day(now) % 86400 == 0
