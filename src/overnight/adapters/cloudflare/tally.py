"""What an owner's object counts, as pure functions: open jobs by status, and what was spent on a day.

One row is the tally, and one row for each open job says what of it is in there. Both change in one transaction, so a
note that comes twice, or late, or from somebody who does not know whether it was written, is counted once.
"""

from bisect import bisect_right
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from overnight.domain.job import Job, Status, WaitingFor
from overnight.domain.standing import Standing, day_of

DAYS = 2
"""That are kept: clocks of workers differ, so at midnight two days are current."""
EXACT = 9
"""Decimal places of dollars, as of a job's cost."""


class Tally(Struct, frozen=True, kw_only=True):
    """`held` are the queued ones that a limit on running jobs holds, `spent` is in US dollars by UTC day.
    `reached` and `mended_at`: how far, by status, and when entries were last compared with their jobs."""

    queued: int = 0
    processing: int = 0
    held: int = 0
    spent: Mapping[int, float] = {}
    reached: Mapping[Status, str] = {}
    mended_at: float = 0.0


class Entry(Struct, frozen=True, kw_only=True):
    """What of an open job is in the tally. `seq` is its last event then, `at` the time of the note.

    `whole`: all that the job ever cost is in `counted_usd` or still to be counted. It is not so of an entry that was
    made anew for a job that had one before.
    """

    session_id: str
    status: Status
    at: float
    attempt: int
    seq: int
    counted_usd: float
    whole: bool
    held: bool = False


Noted = tuple[Tally, Entry | None]
"""The tally, and the entry of one job in it."""


def opened(noted: Noted, job: Job, *, now: float) -> Noted:
    """Room for a job as it is about to be. What it has cost so far is taken for counted if it has no entry."""
    tally, entry = noted
    if entry is not None and entry.seq > job.last_event:
        return noted
    counted = job.cost_usd if entry is None else entry.counted_usd
    whole = job.attempt == 0 if entry is None else entry.whole
    made = _entry_of(job, counted, now, whole=whole)
    return _exchanged(tally, entry, made), made


def followed(noted: Noted, before: Job | None, after: Job, *, now: float) -> Noted:
    """A change that was written. Without an entry its end was noted before, or nobody ever made room for it."""
    tally, entry = noted
    if entry is None and after.status.final:
        return noted
    counted = entry.counted_usd if entry is not None else (0.0 if before is None else before.cost_usd)
    tally = _spent(tally, after.cost_usd - counted, now)
    counted = max(counted, after.cost_usd)
    if entry is not None and entry.seq > after.last_event:  # the job is open again, or runs again
        return tally, msgspec.structs.replace(entry, counted_usd=counted)
    whole = before is None if entry is None else entry.whole
    remains = None if after.status.final else _entry_of(after, counted, now, whole=whole)
    return _exchanged(tally, entry, remains), remains


def mended(noted: Noted, job: Job | None, *, now: float) -> Noted:
    """An entry compared with the job itself; None: there is none."""
    tally, entry = noted
    if entry is None:
        return noted
    if job is not None and entry.whole:
        tally = _spent(tally, job.cost_usd - entry.counted_usd, now)
        entry = msgspec.structs.replace(entry, counted_usd=max(entry.counted_usd, job.cost_usd))
    if job is None or job.status.final:
        return _exchanged(tally, entry, None), None
    right = _entry_of(job, entry.counted_usd, now, whole=entry.whole)
    if (right.status, right.held) == (entry.status, entry.held):
        return tally, entry
    return _exchanged(tally, entry, right), right


def next_to_mend(
    tally: Tally, entries: Mapping[str, Entry], *, most: int, for_running: bool
) -> tuple[Tally, list[str]]:
    """The keys of up to `most` entries to compare with their jobs, and the tally that remembers how far that goes.

    Those that are said to run have half of the places, or four fifths; each status is gone through by itself, round
    and round.
    """
    chosen: list[str] = []
    reached = dict(tally.reached)
    running = most * 4 // 5 if for_running else most // 2
    shares = [(Status.PROCESSING, running), (Status.QUEUED, most - running)]
    for status, share in shares:
        keys = sorted(key for key, entry in entries.items() if entry.status is status)
        begin = bisect_right(keys, reached.get(status, ""))
        if mine := (keys[begin:] + keys[:begin])[:share]:
            chosen += mine
            reached[status] = mine[-1]
    return msgspec.structs.replace(tally, reached=reached), chosen


def forgotten(noted: Noted) -> Noted:
    tally, entry = noted
    return _exchanged(tally, entry, None), None


def standing(noted: Noted, job: Job, *, now: float) -> Standing:
    """How the owner stands for a check of this job, which is not held against itself if it was let in before."""
    tally, entry = noted
    own = entry is not None and entry.status is job.status is Status.PROCESSING
    return Standing(
        queued=tally.queued,
        processing=tally.processing - own,
        spent_today_usd=tally.spent.get(day_of(now), 0.0),
        queued_by_all=tally.queued,
        held=tally.held,
    )


def _entry_of(job: Job, counted_usd: float, now: float, *, whole: bool) -> Entry:
    return Entry(
        session_id=job.session_id,
        status=job.status,
        at=now,
        attempt=job.attempt,
        seq=job.last_event,
        counted_usd=counted_usd,
        whole=whole,
        held=job.status is Status.QUEUED and job.waiting_for is WaitingFor.OWNER_LIMIT,
    )


def _exchanged(tally: Tally, out: Entry | None, entry: Entry | None) -> Tally:
    def change(status: Status) -> int:
        return (entry is not None and entry.status is status) - (out is not None and out.status is status)

    return msgspec.structs.replace(
        tally,
        queued=tally.queued + change(Status.QUEUED),
        processing=tally.processing + change(Status.PROCESSING),
        held=tally.held + (entry is not None and entry.held) - (out is not None and out.held),
    )


def _spent(tally: Tally, dollars: float, now: float) -> Tally:
    if dollars <= 0:
        return tally
    today = day_of(now)
    spent = {**tally.spent, today: round(tally.spent.get(today, 0.0) + dollars, EXACT)}
    kept = dict(sorted(spent.items())[-DAYS:])
    return msgspec.structs.replace(tally, spent=kept)
