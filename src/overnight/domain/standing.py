"""What an owner has open and has spent, and the limits on it.

A store calls a `Check` in the transaction that it is about, so a limit holds however many requests come at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from overnight.domain.errors import BudgetExhausted, OwnerBusy, QueueFull, RoomToRun, TooManyJobs
from overnight.domain.job import Job
from overnight.domain.keys import KeyLimits

DAY_SECONDS = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one owner: its open jobs and what its jobs cost in this UTC day; and the queued jobs of all owners."""

    queued: int
    processing: int
    spent_today_usd: float
    queued_by_all: int


Check = Callable[[Job, Standing], None]
"""Given a job as the change leaves it and the standing before the change; raises a Refused to stop it."""


def day_of(now: float) -> int:
    """The number of the UTC day since 1970."""
    return int(now // DAY_SECONDS)


def next_day(now: float) -> float:
    """When the next UTC day begins: budgets of a day are whole again then."""
    return float((day_of(now) + 1) * DAY_SECONDS)


def room_to_wait(limits: KeyLimits, *, max_queued_by_all: int, now: float) -> Check:
    """May one more job wait? Raises QueueFull, TooManyJobs, BudgetExhausted."""

    def check(job: Job, standing: Standing) -> None:
        if standing.queued_by_all >= max_queued_by_all:
            raise QueueFull("the service has as many waiting jobs as it may have")
        if limits.max_queued is not None and standing.queued >= limits.max_queued:
            raise TooManyJobs("the owner has as many waiting jobs as its key allows")
        if limits.daily_budget_usd is not None and standing.spent_today_usd >= limits.daily_budget_usd:
            raise BudgetExhausted(next_day(now) - now)

    return check


def room_to_run(*, now: float) -> Check:
    """May one more job of the owner run? Raises OwnerBusy, BudgetExhausted."""

    def check(job: Job, standing: Standing) -> None:
        if job.max_running is not None and standing.processing >= job.max_running:
            raise OwnerBusy("the owner has as many running jobs as its key allows")
        if job.daily_budget_usd is not None and standing.spent_today_usd >= job.daily_budget_usd:
            raise BudgetExhausted(next_day(now) - now)

    return check


def still_no_room(*, now: float) -> Check:
    """The opposite, for holding a job back: what held it may be over by then. Raises RoomToRun."""
    room = room_to_run(now=now)

    def check(job: Job, standing: Standing) -> None:
        try:
            room(job, standing)
        except (OwnerBusy, BudgetExhausted):
            return
        raise RoomToRun("the limit that held the job holds it no longer")

    return check
