"""What a simulation is asked for: how large the world is, and what goes wrong in it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from overnight.domain import holding, retention, standing, transitions
from overnight.domain.retry import RetryPolicy
from overnight.domain.standing import Check
from overnight.domain.transitions import Admit, Decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """`run_seconds` is the mean of an attempt, `load` the share of the workers that the jobs would keep busy if nothing
    went wrong, `follow_up` the share of jobs that go to a session which is there already.

    The other durations are those of the product: of `OVERNIGHT_LEASE_SECONDS`, `worker/loop.py` and the edge's alarm.
    """

    workers: int = 20
    jobs: int = 3_000
    run_seconds: float = 40.0
    load: float = 0.7
    follow_up: float = 0.5
    calls_back: float = 0.2
    lease_seconds: float = 15.0
    visibility_seconds: float = 30.0
    tend_seconds: float = 20.0
    max_deliveries: int = 100
    """Of one message, before it becomes a dead letter (the most that the service takes)."""
    owners: int = 4
    headroom: float = 1.7
    """Of what an owner's jobs would keep busy if they came evenly and nothing went wrong: so many may run at once.
    Saving, deaths and second attempts take a third as much again. With less than that more jobs come than may run, and
    those that wait become more for as long as the simulation lasts."""
    versions: int = 3
    """Of a session's archives that are kept."""
    by_lease: bool = False
    """A job is taken back when the time of its lease is over, as the embedded service does it, and not when nothing
    was written for long: then the clocks of workers matter."""

    @property
    def max_running(self) -> int:
        return max(1, round(self.headroom * self.load * self.workers / self.owners))


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Each is the chance, from 0 to 1, that it happens when it could.

    Of messages: a send is lost, a pulled one is delivered to another worker too, one is held up for minutes. Of calls
    to the ledger: the request or the answer is lost. Of a worker, at each of its steps (a request, an answer, a third
    of a lease): it dies, or it freezes for about four leases and then goes on as if nothing had been. Of an alarm: it
    comes twice. Of a note in an owner's tally: it is lost. Of a run: how it ends, if not well. Of callers: they cancel,
    or send a failed job again.
    """

    lost_bell: float = 0.01
    duplicate: float = 0.05
    late: float = 0.02
    lost_request: float = 0.005
    lost_answer: float = 0.005
    death: float = 0.002
    freeze: float = 0.002
    double_alarm: float = 0.01
    lost_note: float = 0.005
    transient: float = 0.05
    permanent: float = 0.02
    rate_limited: float = 0.02
    handed_back: float = 0.02
    cancel: float = 0.05
    resend: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The product's own rules. A test puts a broken one in the place of one of them, to see that it is noticed."""

    submit: Callable[..., Admit] = transitions.submit
    start: Callable[..., Decide] = transitions.start
    renew: Callable[..., Decide] = transitions.renew
    checkpoint: Callable[..., Decide] = transitions.checkpoint
    requeue: Callable[..., Decide] = transitions.requeue
    finish: Callable[..., Decide] = transitions.finish
    lapse: Callable[..., Decide] = transitions.lapse
    cancel: Callable[..., Decide] = transitions.cancel
    resend: Callable[..., Decide] = transitions.resend
    hold: Callable[..., Decide] = holding.hold
    room_to_run: Callable[..., Check] = standing.room_to_run
    superfluous: Callable[..., list[str]] = retention.superfluous
    spent_checkpoints: Callable[..., list[str]] = retention.spent_checkpoints
    policy: RetryPolicy = field(default_factory=RetryPolicy)
