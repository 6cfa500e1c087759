"""What each step of a job costs, counted while the product's own ledger makes it.

The calls are those of `api/jobs.py`, `flows/run_job.py`, `flows/finishing.py` and `flows/notify.py`, in their order.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields, replace
from functools import cache

from bench.counted import CountedEdge, Counts
from bench.simulation.plan import Fleet

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Read
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.polling import PollingWakeups
from overnight.adapters.cloudflare.turns import no_turns
from overnight.domain.delivery import reserve
from overnight.domain.errors import SessionBusy
from overnight.domain.job import ArchiveRef, Delivery, DeliveryStatus, DeliveryTry, JobRequest, Origin
from overnight.domain.keys import Caller, KeyLimits, Scope
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.standing import room_to_run, room_to_wait
from overnight.domain.transitions import Note, checkpoint, finish, record, renew, start, submit

FLEET = Fleet()
LIMITS = KeyLimits(max_queued=100, max_running=10, daily_budget_usd=100.0)
CALLER = Caller(owner="alice", scopes=frozenset({Scope.SUBMIT}), key_id="ovn_alice", limits=LIMITS)
DONE = Outcome(ending=Ending.DONE, result="done", cost_usd=0.1)
SESSION, OTHER = "s", "t"


@dataclass
class Clock:
    time: float = 1_000_000.0

    def now(self) -> float:
        return self.time


class Story:
    """One worker and the edge, over the same objects."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.edge = CountedEdge(self.clock.now, FLEET.tend_seconds)
        self.front, self.worker = self._store(), self._store()
        self.costs: dict[str, Counts] = {}

    def _store(self) -> LedgerStore:
        return LedgerStore(self.edge, PollingWakeups(1.0), self.clock, no_turns)

    async def counted(self, step: str, act: Callable[[], Awaitable[object]]) -> None:
        before = replace(self.edge.counts)
        await act()
        spent = [getattr(self.edge.counts, each.name) - getattr(before, each.name) for each in fields(Counts)]
        self.costs[step] = Counts(*spent)
        self.clock.time += 1.0

    async def accept(self, job_id: str, session_id: str = SESSION, *, continues: bool = False) -> None:
        request = JobRequest(prompt="p", callback_url="https://example.com/")
        now = self.clock.now()
        admit = submit(
            request, job_id=job_id, session_id=session_id, continues=continues, now=now, caller=CALLER
        )
        check = room_to_wait(LIMITS, max_queued_by_all=1_000_000, now=now)
        await self.front.create(session_id, request, admit, check=check)

    async def claim(self, job_id: str) -> None:
        now = self.clock.now()
        decide = start(worker="w", now=now, lease_seconds=FLEET.lease_seconds, isolation="namespace")
        try:
            await self.worker.change(job_id, decide, check=room_to_run(now=now))
        except SessionBusy:
            await self.worker.deliveries(job_id)  # whoever acks a bell looks for a debt
            return
        await self.worker.deliveries(job_id)
        await self.worker.request(job_id)

    async def tell(self, job_id: str, notes: int) -> None:
        told = [Note("agent.text", self.clock.now(), {"text": "t"})] * notes
        await self.worker.change(job_id, record(told, attempt=1))

    async def renew(self, job_id: str) -> None:
        decide = renew(attempt=1, now=self.clock.now(), lease_seconds=FLEET.lease_seconds)
        await self.worker.change(job_id, decide)

    async def checkpoint(self, job_id: str) -> None:
        archive = ArchiveRef(name="c", size=1, sha256="0" * 64, origin=Origin.RUN)
        await self.worker.change(job_id, checkpoint(archive, attempt=1, now=self.clock.now()))

    async def finish(self, job_id: str) -> None:
        await self.worker.snapshot(job_id)  # does it go back?
        archive = ArchiveRef(name="a", size=1, sha256="0" * 64, origin=Origin.RUN)
        decide = finish(DONE, attempt=1, now=self.clock.now(), archive=archive, delivery_id=f"msg_{job_id}")
        await self.worker.change(job_id, decide)
        await self.worker.snapshot(job_id)  # is it still the newest, to be published?
        await self.worker.session(SESSION)  # or was it erased, and must not be kept?
        await self.worker.snapshot(job_id)  # whose archives may go?
        await self.worker.session(SESSION)

    async def webhook(self, job_id: str) -> None:
        now = self.clock.now()

        def paid(owed: Delivery) -> Delivery:
            tries = (*owed.tries, DeliveryTry(at=now, status=204, failure=None))
            return replace(owed, status=DeliveryStatus.DELIVERED, tries=tries)

        delivery_id = f"msg_{job_id}"
        await self.worker.change_delivery(delivery_id, lambda owed: reserve(owed, now=now, seconds=60.0))
        await self.worker.change_delivery(delivery_id, lambda _: None)  # or it was erased
        await self.worker.change_delivery(delivery_id, paid)

    async def look(self) -> None:
        """The alarm, when it is due next."""
        name = codec.session_object(SESSION)
        self.clock.time = self.edge.alarms[name]
        self.edge.alarm(name)


@cache
def told() -> dict[str, Counts]:
    """Each step of the story by its name, with what it cost."""
    return asyncio.run(_told())


async def _told() -> dict[str, Counts]:
    story = Story()
    for number in range(codec.ROUTE_OBJECTS):
        await story.edge.read(f"routes:{number:02x}", Read())
    await story.accept("first", OTHER)  # so that the owner is there already, as the routes are
    await story.counted("accept", lambda: story.accept("job"))
    await story.counted("waiting alarm", story.look)
    await story.counted("claim", lambda: story.claim("job"))
    await story.accept("next", continues=True)
    await story.counted("a bell in vain", lambda: story.claim("next"))
    await story.renew("job")  # after what the session's next job has changed
    await story.counted("renew", lambda: story.renew("job"))
    await story.counted("write of events", lambda: story.tell("job", 1))
    await story.counted("two events", lambda: story.tell("job", 2))
    await story.counted("checkpoint", lambda: story.checkpoint("job"))
    await story.counted("alarm", story.look)
    await story.counted("finish", lambda: story.finish("job"))
    await story.counted("webhook", lambda: story.webhook("job"))
    return story.costs
