"""A whole fleet in virtual time: callers, queue, ledger, alarms and workers, from one seed.

The rules are the product's (`overnight.domain`), the faults are drawn, and the witness looks at every write. The same
seed, fleet and faults give the same run on every machine.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from bench.simulation.agenda import Agenda, Process
from bench.simulation.archives import Archives
from bench.simulation.cloud_queue import CloudQueue
from bench.simulation.ledger import Ledger
from bench.simulation.others import Alarms, Callers
from bench.simulation.owners import Tallies
from bench.simulation.plan import Faults, Fleet, Rules
from bench.simulation.witness import Witness
from bench.simulation.worker import Worker, World

from overnight.domain.job import Change, Status

START = 1_000_000.0
TELL_SECONDS = 600.0
PATIENCE_SECONDS = 6 * 3600.0
"""Longer than any wait of the rules in a simulation: if no event is written for so long, jobs are stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`seconds` of virtual time until the world was quiet; `waits` from acceptance to the first start, sorted."""

    seconds: float
    statuses: dict[Status, int]
    tally: Counter[str]
    waits: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`seconds` of virtual time; `messages` are bells under way, `busy` the workers that have one or run a job."""

    seconds: float
    ended: int
    open: int
    messages: int
    busy: int


def simulate(
    fleet: Fleet,
    *,
    seed: int,
    faults: Faults | None = None,
    rules: Rules | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run until every job has its final status and the world is quiet. Raises Violation.

    `progress` is called every ten minutes of virtual time.
    """
    simulation = Simulation(fleet, faults or Faults(), rules or Rules(), Random(seed), progress)
    return simulation.run()


class Simulation:
    def __init__(
        self,
        fleet: Fleet,
        faults: Faults,
        rules: Rules,
        chance: Random,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._agenda, self._tally = Agenda(START), Counter[str]()
        self._witness = Witness(rules.policy)
        self._queue = CloudQueue(self._agenda, chance, fleet, faults, self._tally)
        self._ledger = Ledger(self._witness, self._tally, self._agenda)
        self._world = World(
            agenda=self._agenda,
            chance=chance,
            fleet=fleet,
            faults=faults,
            rules=rules,
            queue=self._queue,
            ledger=self._ledger,
            owners=Tallies(self._agenda, self._ledger, chance, faults, self._tally),
            archives=Archives(self._agenda, self._ledger, rules, fleet.versions, self._tally),
            waits=[],
            tally=self._tally,
        )
        self._callers, self._alarms = Callers(self._world), Alarms(self._world)
        self._moved_at = START
        self._progress = progress
        self._ledger.written = self._written

    def run(self) -> Report:
        self._agenda.start(self._callers.send())
        for number in range(self._world.fleet.workers):
            self._agenda.start(Worker(f"w{number}", self._world).live())
        if self._progress is not None:
            self._agenda.start(self._tell(self._progress))
        while not self._is_quiet():
            self._agenda.step()
            if self._agenda.now - self._moved_at > PATIENCE_SECONDS:
                raise self._witness.stuck()
        self._witness.settle()
        return Report(
            seconds=self._agenda.now - START,
            statuses=dict(self._witness.statuses),
            tally=self._tally,
            waits=sorted(self._world.waits),
        )

    def _tell(self, progress: Callable[[Progress], None]) -> Process[None]:
        while True:
            yield TELL_SECONDS
            progress(
                Progress(
                    seconds=self._agenda.now - START,
                    ended=sum(self._witness.statuses.values()),
                    open=self._witness.open,
                    messages=self._queue.alive,
                    busy=self._world.busy,
                )
            )

    def _is_quiet(self) -> bool:
        """Nobody has anything left to do: also no bell is under way, and no late worker."""
        return not (self._witness.open or self._callers.pending or self._queue.alive or self._world.busy)

    def _written(self, change: Change) -> None:
        if change.events:
            self._moved_at = self._agenda.now
        if change.job.status.final:
            self._callers.hear(change.job)
        self._alarms.after(change)
