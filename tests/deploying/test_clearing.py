"""What a smoke test has made is erased, also if something of it cannot be."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from bench.counted import CountedDocuments

from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.turns import Turns
from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.client import AsyncClient, Job, OvernightError
from overnight.deploying.smoke import Made, Smoke, Wrong
from overnight.domain.errors import SessionNotFound
from overnight.domain.job import JobRequest
from overnight.domain.transitions import cancel, submit
from overnight.settings import Settings

CLOCK, ENTROPY = SystemClock(), SystemEntropy()


@dataclass
class Client:
    """The calls of a client that end jobs. Those of `stuck` it cannot end."""

    ledger: LedgerStore
    stuck: set[str] = field(default_factory=set)

    async def cancel(self, job_id: str) -> None:
        if job_id in self.stuck:
            raise OvernightError("the edge is busy")
        await self.ledger.change(job_id, cancel(now=CLOCK.now(), delivery_id=ENTROPY.delivery_id()))

    async def status(self, job_id: str) -> Job:
        return cast("Job", Ended())


@dataclass(frozen=True)
class Ended:
    final: bool = True


async def submitted(ledger: LedgerStore) -> tuple[str, str]:
    job_id, session_id = ENTROPY.job_id(), ENTROPY.session_id()
    request = JobRequest(prompt="p")
    admit = submit(request, job_id=job_id, session_id=session_id, continues=False, now=CLOCK.now())
    await ledger.create(session_id, request, admit)
    return session_id, job_id


async def test_what_can_be_erased_is_and_what_is_left_is_said(tmp_path: Path) -> None:
    ledger = LedgerStore(CountedDocuments(CLOCK.now), MemoryWakeups(), CLOCK, Turns())
    made = [await submitted(ledger) for _ in range(3)]
    stuck, stuck_job = made[1]
    smoke = Smoke(
        settings=Settings.model_validate({"data": tmp_path}),
        client=cast("AsyncClient", Client(ledger, {stuck_job})),
        ledger=ledger,
        archives=MemoryArchives(CLOCK),
        clock=CLOCK,
        token="t",
        patience=1.0,
        made=Made(sessions=dict(made), open_jobs=[job_id for _, job_id in made]),
    )
    with pytest.raises(Wrong, match=f"^session {stuck} is left: .*the edge is busy$"):
        await smoke.clear()
    assert (await ledger.session(stuck)).line == (stuck_job,)
    for session_id in {session_id for session_id, _ in made} - {stuck}:
        with pytest.raises(SessionNotFound):
            await ledger.session(session_id)
