"""One attempt under way, and what it has open."""

from dataclasses import dataclass

from overnight.domain.job import Job, Session
from overnight.flows.checkpoint import Checkpoints
from overnight.flows.event_log import EventLog
from overnight.flows.lease import RunStop


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """`job` and `session` are as they were when the attempt was claimed. `delays` are the seconds between two tries to
    write down what it has come to."""

    job: Job
    session: Session
    stop: RunStop
    events: EventLog
    checkpoints: Checkpoints
    delays: tuple[float, ...]
