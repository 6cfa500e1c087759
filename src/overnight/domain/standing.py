"""What an owner has open and has spent, and the limits on it.

A store calls a `Check` in the transaction that it is about, so a limit holds however many requests come at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from overnight.domain.errors import BudgetExhausted, OwnerBusy, QueueFull, RoomToRun, TooManyJobs
from overnight.domain.job import Job
from overnight.domain.keys import KeyLimits

DAY_SECONDS = 86400
HOLD_SECONDS, LONGEST_HOLD_SECONDS = 30.0, 600.0
"""Until a job is tried again whose owner has as many running as its key allows, should nobody let it in before."""
TRIES_FOR_A_PLACE = 4
"""Of all held jobs of an owner together, in HOLD_SECONDS, for each job that may run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one owner: its open jobs and what its jobs cost in this UTC day; and the queued jobs of all owners.

    `held` are those of the queued ones that wait for another of their owner to end. A store that finds these when one
    ends, and lets them in, need not tell them from the other queued ones: they then wait longer than their share.
    """

    queued: int
    processing: int
    spent_today_usd: float
    queued_by_all: int
    held: int = 0


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
            raise OwnerBusy(held_for(standing.held, max_running=job.max_running))
        if job.daily_budget_usd is not None and standing.spent_today_usd >= job.daily_budget_usd:
            raise BudgetExhausted(next_day(now) - now)

    return check


def held_for(held: int, *, max_running: int) -> float:
    """Seconds until a job tries again, of an owner who has so many that wait like it; they are to be spread.

    Each try costs requests and a row, and all tries change one tally. So it is together that they try often enough for
    a place not to stay free for long, and each of them the more seldom the more there are.
    """
    share = held / (TRIES_FOR_A_PLACE * max(max_running, 1))
    return min(HOLD_SECONDS * max(share, 1.0), LONGEST_HOLD_SECONDS)


def spread(seconds: float, *, chance: float) -> float:
    """From half to one and a half times as long; `chance` is from 0 to 1. Jobs that came together would else try
    together for ever, and in between a place would stay free."""
    return seconds * (0.5 + chance)


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
