"""Cloudflare Queues as documented for pull consumers: at least once, in any order, late; then a dead letter.

A message that was pulled and not acknowledged is visible again after the visibility timeout. `attempts` counts pulls,
and after too many the message is a dead letter. An ack is taken however late it comes, also if another worker holds
the message by then (facts: cloudflare 3).
"""

import heapq
from collections import Counter
from dataclasses import dataclass
from random import Random

from bench.simulation.agenda import Agenda
from bench.simulation.plan import Faults, Fleet

USUAL_DELAY_SECONDS = 0.5
LATE_SECONDS = 300.0
"""Means of exponential delays: they alone put messages out of order."""
LONGEST_DELAY_SECONDS = 12 * 3600.0


@dataclass(slots=True)
class Message:
    """`turn` changes whenever its visibility does, so that what the heap holds of before is void."""

    job_id: str
    attempts: int = 0
    turn: int = 0
    gone: bool = False


class CloudQueue:
    def __init__(
        self, agenda: Agenda, chance: Random, fleet: Fleet, faults: Faults, tally: Counter[str]
    ) -> None:
        self._agenda = agenda
        self._chance = chance
        self._fleet = fleet
        self._faults = faults
        self._tally = tally
        self._heap: list[tuple[float, int, int, Message]] = []
        self._made = 0
        self.alive = 0

    def send(self, job_id: str, *, at: float) -> None:
        if self._chance.random() < self._faults.lost_bell:
            self._tally["bells lost"] += 1
            return
        self._tally["bells sent"] += 1
        self.alive += 1
        self._show(Message(job_id), at)

    def pull(self) -> Message | None:
        self._tally["pulls"] += 1
        while self._heap and self._heap[0][0] <= self._agenda.now:
            _, _, turn, message = heapq.heappop(self._heap)
            if turn != message.turn or message.gone:
                continue
            if message.attempts >= self._fleet.max_deliveries:
                self._bury(message)
                continue
            return self._deliver(message)
        self._tally["empty pulls"] += 1
        return None

    def ack(self, message: Message) -> None:
        self._tally["acks"] += 1
        if not message.gone:
            message.gone = True
            self.alive -= 1

    def retry(self, message: Message, *, at: float) -> None:
        self._tally["retries"] += 1
        if not message.gone:
            self._show(message, at)

    def _deliver(self, message: Message) -> Message:
        message.attempts += 1
        again = self._fleet.visibility_seconds
        if self._chance.random() < self._faults.duplicate:
            self._tally["duplicates"] += 1
            again = self._chance.expovariate(1.0)
        self._hide(message, self._agenda.now + again)
        return message

    def _bury(self, message: Message) -> None:
        """The job is as it was in the ledger, whose alarm rings for it again."""
        self._tally["dead letters"] += 1
        message.gone = True
        self.alive -= 1

    def _show(self, message: Message, at: float) -> None:
        late = self._chance.random() < self._faults.late
        delay = self._chance.expovariate(1.0 / (LATE_SECONDS if late else USUAL_DELAY_SECONDS))
        wanted = min(max(at, self._agenda.now), self._agenda.now + LONGEST_DELAY_SECONDS)
        self._hide(message, wanted + delay)

    def _hide(self, message: Message, until: float) -> None:
        message.turn += 1
        self._made += 1
        heapq.heappush(self._heap, (until, self._made, message.turn, message))
