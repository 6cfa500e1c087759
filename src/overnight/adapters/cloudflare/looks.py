"""When a session's alarm looks, and what it has to do then, as pure functions.

An alarm that looks is paid for, and so is the row that sets it. So it looks when something can be due, and never only
to see that nothing is: a lease that was not renewed, a bell that was lost, a webhook that nobody pays.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from overnight.domain.job import Delivery, DeliveryStatus, Job, Status

DEBT_SECONDS = 120.0
"""Longer than a worker holds a delivery for one try."""
LONGEST_PAUSE_SECONDS = 1800.0
"""A job may wait long for a free worker, and then its bell is not lost: so it is rung ever more seldom."""
JITTER = 0.1
"""Of a pause: those who began to wait together do not all ring at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What an alarm sees of its session: the first open job, when that was last written by the clock of its object,
    and the deliveries that are owed."""

    first: Job | None
    written_at: float = 0.0
    owed: tuple[Delivery, ...] = ()


def is_lost(sight: Sight, *, now: float, tend_seconds: float) -> bool:
    """Has the worker of the running job renewed nothing for so long? Its lease is not asked: clocks differ."""
    running = sight.first is not None and sight.first.status is Status.PROCESSING
    return running and now >= sight.written_at + tend_seconds


def silent(sight: Sight, *, now: float) -> list[str]:
    """The jobs whose bells may be lost: the first, if it could run, and those with webhooks that nobody tries."""
    late = {owed.job_id for owed in sight.owed if owed.next_at + DEBT_SECONDS <= now}
    if sight.first is not None and sight.first.status is Status.QUEUED and sight.first.available_at <= now:
        late.add(sight.first.job_id)
    return sorted(late)


def after_a_write(sight: Sight, *, now: float, tend_seconds: float) -> float | None:
    """When the alarm must look at the latest, now that this was written. None: not for this."""
    times = [max(owed.next_at, now) + DEBT_SECONDS for owed in sight.owed]
    if sight.first is not None:
        waits_until = sight.first.available_at if sight.first.status is Status.QUEUED else sight.written_at
        times.append(max(waits_until, now) + tend_seconds)
    return min(times, default=None)


def after_a_look(sight: Sight, *, now: float, tend_seconds: float, chance: float) -> float | None:
    """When to look again, if nothing is written meanwhile. None: never.

    Whoever has waited for some time waits as long again, so looks and bells come after 20 s, 40 s, 80 s and so on. That
    needs no memory of earlier looks.
    """
    waits = [_again(owed.next_at + DEBT_SECONDS, now, DEBT_SECONDS, chance) for owed in sight.owed]
    if sight.first is not None:
        if sight.first.status is Status.QUEUED:
            since = max(sight.first.available_at, sight.written_at)
            waits.append(_again(since + tend_seconds, now, tend_seconds, chance))
        else:
            due = sight.written_at + tend_seconds
            waits.append(due if due > now else now + tend_seconds)
    return min(waits, default=None)


def owed_of(deliveries: Iterable[Delivery]) -> tuple[Delivery, ...]:
    return tuple(each for each in deliveries if each.status is DeliveryStatus.OWED)


def _again(due: float, now: float, least: float, chance: float) -> float:
    """When it is due, and from then on after pauses that grow from the least."""
    if due > now:
        return due
    pause = min(now - due + least, LONGEST_PAUSE_SECONDS)
    return now + pause * (1.0 + JITTER * chance)
