"""What a job costs on Cloudflare and Supabase, by counted operations and listed prices.

`bench/scale_page.py` makes tables of it. Operations were counted in the code of the edge (`edge/` and its adapters,
as of its commit 82e357b): a call of a worker to the ledger is one request to the Worker and one to an object; a
document that is put is two rows, itself and its key's index; a batch is one more.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace

from bench.simulation.plan import Fleet
from bench.simulation.worker import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, WAIT_SECONDS

MONTH_SECONDS = 30 * 86400
MILLION = 1e6
OBJECT_SECONDS, OBJECT_GB = 0.010, 0.128
"""Of a request to an object: a guess, and the memory that is charged for whatever it uses."""
WORKER_CPU_MS = 10.0
"""Of a request to the Worker: a guess. Warm requests took 10 to 40 ms in workerd (facts: cloudflare 1.6)."""
RENEW_SECONDS = Fleet().lease_seconds / 3
TEND_SECONDS = Fleet().tend_seconds
CHECKPOINT_SECONDS = 60.0


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
    its session's archive; `asked`: how often its caller asks for its status."""

    name: str
    seconds: float
    events: int
    archive_mb: float
    follows: float = 0.3
    calls_back: float = 0.5
    cold: float = 0.5
    asked: int = 10


WORKS = (
    Work(name="short", seconds=60, events=30, archive_mb=1),
    Work(name="usual", seconds=300, events=100, archive_mb=5),
    Work(name="longest", seconds=1500, events=400, archive_mb=20),
)
USUAL = WORKS[1]


def ledger(calls: float, *, rows: float) -> Usage:
    """Calls of a worker, each by way of the Worker to an object."""
    return Usage(worker_requests=calls, object_requests=calls, rows_written=rows)


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    of: str
    usage: Usage
    times: Callable[[Work], float]


STEPS = (
    Step(
        "accept",
        "session, owner (read, write), route, session with job, event and request; alarm; mirror",
        Usage(worker_requests=1, object_requests=5, rows_written=18, kv_writes=1),
        lambda _: 1,
    ),
    Step(
        "ring",
        "the edge reads job and request, each by its route; one message",
        Usage(object_requests=4, queue_operations=1),
        lambda _: 1,
    ),
    Step(
        "claim",
        "pull and ack; route, session, owner (read, write), job with event; debts; request; mirror",
        ledger(9, rows=10) + Usage(object_requests=1, queue_operations=2, kv_writes=1),
        lambda _: 1,
    ),
    Step(
        "a bell in vain",
        "the session is busy: pull, ack, look; the job before pushes another message",
        ledger(4, rows=0) + Usage(queue_operations=3),
        lambda work: work.follows,
    ),
    Step(
        "renew",
        f"each {RENEW_SECONDS:g} s: route, job, write",
        ledger(3, rows=3),
        lambda work: work.seconds / RENEW_SECONDS,
    ),
    Step("event", "route, job, write with the event", ledger(3, rows=5), lambda work: work.events),
    Step(
        "checkpoint",
        f"each {CHECKPOINT_SECONDS:g} s: route, job, write with its event",
        ledger(3, rows=5),
        lambda work: work.seconds / CHECKPOINT_SECONDS,
    ),
    Step(
        "alarm",
        f"each {TEND_SECONDS:g} s while a job is open: itself, route, job; what it saw, the next alarm",
        Usage(object_requests=3, rows_written=2),
        lambda work: work.seconds / TEND_SECONDS,
    ),
    Step(
        "finish",
        "job (three looks), the change with session and event, owner; mirror",
        ledger(9, rows=12) + Usage(kv_writes=1),
        lambda _: 1,
    ),
    Step(
        "webhook",
        "its route, the debt, a reservation and the try",
        ledger(7, rows=11),
        lambda work: work.calls_back,
    ),
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


def pulls_of_an_idle_worker() -> int:
    """In one wait of the loop (`WAIT_SECONDS`): at its start, after each pause, at its end."""
    pulls, waited, pause = 1, 0.0, FIRST_PAUSE_SECONDS
    while waited < WAIT_SECONDS:
        waited += min(pause, WAIT_SECONDS - waited)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        pulls += 1
    return pulls


def cheaper() -> dict[str, Sequence[Step]]:
    """What could be changed in the edge, and the steps of a job then."""
    return {
        "as it is": STEPS,
        "events are written with the next renewal, in one change": _with("event", Usage(rows_written=2)),
        "a lease of 60 s, renewed each 20 s": [
            replace(step, times=lambda work: work.seconds / 20) if step.name == "renew" else step
            for step in STEPS
        ],
        "a document is one row (a table `WITHOUT ROWID`)": [
            replace(step, usage=replace(step.usage, rows_written=ROWS_WITHOUT_INDEX[step.name]))
            if step.name in ROWS_WITHOUT_INDEX
            else step
            for step in STEPS
        ],
        "a worker remembers the route of the job it runs": [
            replace(step, usage=replace(step.usage, worker_requests=2, object_requests=2))
            if step.name in {"renew", "event", "checkpoint"}
            else step
            for step in STEPS
        ],
    }


ROWS_WITHOUT_INDEX = {
    "accept": 11,
    "claim": 6,
    "renew": 2,
    "event": 3,
    "checkpoint": 3,
    "finish": 7,
    "webhook": 7,
}


def _with(name: str, usage: Usage) -> Sequence[Step]:
    return [replace(step, usage=usage) if step.name == name else step for step in STEPS]
