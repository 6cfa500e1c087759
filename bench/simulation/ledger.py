"""The truth, as the Durable Objects keep it: one decision at a time, each watched by the witness."""

from collections import Counter
from collections.abc import Callable

from bench.simulation.agenda import Agenda
from bench.simulation.witness import Witness

from overnight.domain.errors import JobNotFound
from overnight.domain.job import Change, Job, Session, Snapshot
from overnight.domain.transitions import Admit, Decide


class Ledger:
    def __init__(self, witness: Witness, tally: Counter[str], agenda: Agenda) -> None:
        self._witness = witness
        self._agenda = agenda
        self._written_at: dict[str, float] = {}
        self._tally = tally
        self._jobs: dict[str, Job] = {}
        self._sessions: dict[str, Session] = {}
        self.written: Callable[[Change], None] = _nobody
        """Told of each change after it was written."""

    def create(self, session_id: str, admit: Admit) -> Change:
        change = admit(self._sessions.get(session_id))
        self._write(change)
        self._witness.accepted(change)
        self.written(change)
        return change

    def change(
        self,
        job_id: str,
        decide: Decide,
        *,
        by: int | None = None,
        resent: bool = False,
        overdue: bool = False,
    ) -> Change:
        """`by` is the attempt that writes, for the witness alone: the rule has its own knowledge of it. `overdue`: room
        was made for it so long ago that somebody may have taken that back."""
        before = self.snapshot(job_id)
        change = decide(before.job, before.session)
        if change is None:
            return Change(job=before.job, session=before.session)
        self._write(change)
        self._witness.changed(before.job, change, by=by, resent=resent, overdue=overdue)
        self.written(change)
        return change

    def snapshot(self, job_id: str) -> Snapshot:
        if job_id not in self._jobs:
            raise JobNotFound("no such job")
        job = self._jobs[job_id]
        return Snapshot(job=job, session=self._sessions[job.session_id])

    def written_at(self, job_id: str) -> float:
        """By the clock of its object."""
        return self._written_at[job_id]

    def session(self, session_id: str) -> Session:
        return self._sessions[session_id]

    def _write(self, change: Change) -> None:
        self._tally["ledger changes"] += 1
        self._tally["events"] += len(change.events)
        self._jobs[change.job.job_id] = change.job
        self._written_at[change.job.job_id] = self._agenda.now
        self._sessions[change.session.session_id] = change.session


def _nobody(_: Change) -> None:
    return
