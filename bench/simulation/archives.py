"""What is stored of each session and who deletes it: `flows/checkpoint.py`, `finishing.py` and `retention.py`."""

from collections import Counter, defaultdict

from bench.simulation.agenda import Agenda
from bench.simulation.ledger import Ledger
from bench.simulation.plan import Rules
from bench.simulation.witness import Violation

from overnight.domain.archive_names import parse_archive_name
from overnight.domain.job import Job, Session, Snapshot
from overnight.domain.retention import RetentionPolicy, StoredArchives


class Archives:
    """Nothing that anybody may still need is ever deleted, and whatever an attempt starts from is there."""

    def __init__(
        self, agenda: Agenda, ledger: Ledger, rules: Rules, versions: int, tally: Counter[str]
    ) -> None:
        self._agenda = agenda
        self._ledger = ledger
        self._rules = rules
        self._policy = RetentionPolicy(versions=versions)
        self._tally = tally
        self._stored: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def put(self, session_id: str, name: str) -> None:
        self._stored[session_id][name] = self._agenda.now

    def restore(self, job: Job, session: Session) -> None:
        """What the attempt starts from, as its claim has shown it. A stale one may find it gone."""
        checkpoint = Snapshot(job=job, session=session).checkpoint
        name = checkpoint.archive.name if checkpoint else session.archive_name
        current = self._ledger.snapshot(job.job_id).job
        if name is None or name in self._stored[job.session_id] or current.attempt != job.attempt:
            return
        if not current.status.final:
            raise Violation(
                "archive", job.job_id, f"{name} is gone, and attempt {job.attempt} starts from it"
            )

    def delete(self, session_id: str, name: str) -> None:
        parsed = parse_archive_name(name)
        if parsed is None:
            raise Violation("archive", name, "it has a name that is not ours")
        found = self._ledger.snapshot(parsed.job_id)
        needed = None if found.job.status.final else found.checkpoint
        if name == found.session.archive_name or (needed is not None and needed.archive.name == name):
            raise Violation("archive", parsed.job_id, f"{name} was deleted and is needed")
        self._tally["archives deleted"] += self._stored[session_id].pop(name, None) is not None

    def drop_checkpoints(self, job: Job) -> None:
        for name in self._rules.spent_checkpoints(self._stored[job.session_id], job):
            self.delete(job.session_id, name)

    def listing(self, session_id: str) -> dict[str, float]:
        return dict(self._stored[session_id])

    def superfluous(self, listed: dict[str, float], jobs: dict[str, Job], current: str | None) -> list[str]:
        found = StoredArchives(stored_at=listed, jobs=jobs, current=current)
        return self._rules.superfluous(found, policy=self._policy, now=self._agenda.now)

    def jobs_of(self, listed: dict[str, float]) -> dict[str, Job]:
        named = {parsed.job_id for name in listed if (parsed := parse_archive_name(name)) is not None}
        return {job_id: self._ledger.snapshot(job_id).job for job_id in named}
