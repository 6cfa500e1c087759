"""What a job costs on Cloudflare and Supabase, by counted operations and listed prices.

`bench/scale_page.py` makes tables of it. Operations of the ledger are counted while it makes them (`bench/story.py`);
those of the queue and of callers are written here.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace

from bench.simulation.plan import Fleet
from bench.story import told

from overnight.adapters.cloudflare.polling import LONGEST_PAUSE_SECONDS

MONTH_SECONDS = 30 * 86400
MILLION = 1e6
OBJECT_SECONDS, OBJECT_GB = 0.010, 0.128
"""Of a request to an object: a guess, and the memory that is charged for whatever it uses."""
WORKER_CPU_MS = 10.0
"""Of a request to the Worker: a guess. Warm requests took 10 to 40 ms in workerd (facts: cloudflare 1.6)."""
RENEW_SECONDS = Fleet().lease_seconds / 3
TEND_SECONDS = Fleet().tend_seconds
CHECKPOINT_SECONDS = 60.0
GATHER_SECONDS, BOOKS_SECONDS = 1.0, 10.0
"""Of a worker of an edge (`wiring/work.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Operations, in the units that are charged for."""

    worker_requests: float = 0.0
    object_requests: float = 0.0
    rows_written: float = 0.0
    queue_operations: float = 0.0
    kv_writes: float = 0.0
    kv_reads: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        pairs = zip(fields(self), astuple(self), astuple(other), strict=True)
        return Usage(**{field.name: mine + theirs for field, mine, theirs in pairs})

    def __mul__(self, times: float) -> "Usage":
        return Usage(**{field.name: getattr(self, field.name) * times for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A kind of job. `follows`: the share that waits for an earlier job of its session; `cold`: the share that fetches
    its session's archive; `budgeted`: the share whose key has a budget of a day; `asked`: how often its caller asks
    for its status."""

    name: str
    seconds: float
    events: int
    archive_mb: float
    follows: float = 0.3
    calls_back: float = 0.5
    cold: float = 0.5
    budgeted: float = 0.5
    asked: int = 10


WORKS = (
    Work(name="short", seconds=60, events=30, archive_mb=1),
    Work(name="usual", seconds=300, events=100, archive_mb=5),
    Work(name="longest", seconds=1500, events=400, archive_mb=20),
)
USUAL = WORKS[1]


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    of: str
    usage: Usage
    times: Callable[[Work], float]


def by_edge(step: str, *, worker_requests: float = 0, queue_operations: float = 0) -> Usage:
    """What was counted of a step that the edge makes itself."""
    spent = told()[step]
    return Usage(
        worker_requests=worker_requests,
        object_requests=spent.requests + spent.inner,
        rows_written=spent.rows_written,
        queue_operations=queue_operations,
        kv_writes=spent.kv_writes,
    )


def by_worker(step: str, *, queue_operations: float = 0) -> Usage:
    """What was counted of a step of a worker, each of whose calls goes by way of the Worker to an object."""
    return by_edge(step, worker_requests=told()[step].requests, queue_operations=queue_operations)


def writes_of(work: Work, gather_seconds: float = GATHER_SECONDS) -> float:
    """Of its events, if they come at random: those of `gather_seconds` after the first are in one write."""
    return work.events / (1 + gather_seconds * work.events / work.seconds)


ONE_MORE_EVENT = Usage(
    rows_written=told()["two events"].rows_written - told()["write of events"].rows_written
)

STEPS = (
    Step(
        "accept",
        "session, owner (read, write), route, session with job, event and request; alarm; one message; mirror",
        by_edge("accept", worker_requests=1, queue_operations=told()["accept"].bells),
        lambda _: 1,
    ),
    Step(
        "claim",
        "pull and ack; route, session, owner (read, write), job with event; debts; request; mirror",
        by_worker("claim", queue_operations=2),
        lambda _: 1,
    ),
    Step(
        "a bell in vain",
        "the session is busy: pull, ack, route, look, debts; the end of the job before rings again",
        by_worker("a bell in vain", queue_operations=3),
        lambda work: work.follows,
    ),
    Step(
        "renew",
        f"each {RENEW_SECONDS:g} s: the write",
        by_worker("renew"),
        lambda work: work.seconds / RENEW_SECONDS,
    ),
    Step(
        "write of events",
        f"{GATHER_SECONDS:g} s after the first of them, with that one",
        by_worker("write of events"),
        writes_of,
    ),
    Step("event", "each more in such a write", ONE_MORE_EVENT, lambda work: work.events - writes_of(work)),
    Step(
        "checkpoint",
        f"each {CHECKPOINT_SECONDS:g} s: the write with its event",
        by_worker("checkpoint"),
        lambda work: work.seconds / CHECKPOINT_SECONDS,
    ),
    Step(
        "books",
        f"each {BOOKS_SECONDS:g} s, if the key has a budget of a day",
        Usage(worker_requests=1, object_requests=1),
        lambda work: work.budgeted * work.seconds / BOOKS_SECONDS,
    ),
    Step(
        "alarm",
        f"{TEND_SECONDS:g} s after the last write that it knows of: itself, the next alarm",
        by_edge("alarm"),
        lambda work: work.seconds / (TEND_SECONDS - RENEW_SECONDS / 2),
    ),
    Step(
        "finish",
        "job (three looks), session (two), the change with session and event, route of a webhook, owner; mirror",
        by_worker("finish"),
        lambda _: 1,
    ),
    Step("webhook", "a reservation, a look and the try", by_worker("webhook"), lambda work: work.calls_back),
    Step(
        "status",
        "one look of the caller, at the mirror",
        Usage(worker_requests=1, kv_reads=1),
        lambda work: work.asked,
    ),
)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for `per` units beyond those that a month of the plan includes."""

    name: str
    dollars: float
    per: float
    included: float
    units: Callable[[Usage, Work], float]

    def of(self, units: float) -> float:
        return units * self.dollars / self.per


GB_MONTH = 1.0
"""An archive is taken to be kept for a month."""
PRICES = (
    Price("Worker requests", 0.30, MILLION, 10e6, lambda used, _: used.worker_requests),
    Price("Worker CPU, ms", 0.02, MILLION, 30e6, lambda used, _: used.worker_requests * WORKER_CPU_MS),
    Price("object requests", 0.15, MILLION, 1e6, lambda used, _: used.object_requests),
    Price(
        "object GB-s",
        12.50,
        MILLION,
        400e3,
        lambda used, _: used.object_requests * OBJECT_SECONDS * OBJECT_GB,
    ),
    Price("object rows written", 1.00, MILLION, 50e6, lambda used, _: used.rows_written),
    Price("queue operations", 0.40, MILLION, 1e6, lambda used, _: used.queue_operations),
    Price("KV writes", 5.00, MILLION, 1e6, lambda used, _: used.kv_writes),
    Price("KV reads", 0.50, MILLION, 10e6, lambda used, _: used.kv_reads),
    Price("Supabase storage, GB-months", 0.021, 1, 100, lambda _, work: work.archive_mb / 1e3 * GB_MONTH),
    Price("Supabase egress, GB", 0.09, 1, 250, lambda _, work: work.cold * work.archive_mb / 1e3),
)
CLOUDFLARE_PLAN, SUPABASE_PLAN = 5.00, 25.00


def usage_of(work: Work, steps: Sequence[Step] = STEPS) -> Usage:
    return sum((step.usage * step.times(work) for step in steps), Usage())


def dollars_of(work: Work, steps: Sequence[Step] = STEPS) -> float:
    used = usage_of(work, steps)
    return sum(price.of(price.units(used, work)) for price in PRICES)


PULLS_A_SECOND = 1 / LONGEST_PAUSE_SECONDS
"""Of a worker that has been idle for a while."""


def cheaper() -> dict[str, Sequence[Step]]:
    """What could be changed in the edge, and the steps of a job then."""
    return {
        "as it is": STEPS,
        "events gathered for 5 s instead of 1": [
            replace(step, times=lambda work: writes_of(work, 5.0)) if step.name == "write of events" else step
            for step in STEPS
        ],
        "a write of events renews the lease too": [
            replace(step, times=lambda work: max(work.seconds / RENEW_SECONDS - writes_of(work), 0.0))
            if step.name == "renew"
            else step
            for step in STEPS
        ],
        "the events of a write in one row": [
            replace(step, times=lambda _: 0.0) if step.name == "event" else step for step in STEPS
        ],
        "a lease of 60 s, renewed each 20 s": [
            replace(step, times=lambda work: work.seconds / 20) if step.name == "renew" else step
            for step in STEPS
        ],
    }
