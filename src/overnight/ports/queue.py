"""The doorbell, and how waiters are woken."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """One ring received. `receipt` is what ack and retry take; `rung` counts deliveries of this bell."""

    job_id: str
    receipt: str
    rung: int


class Queue(Protocol):
    """The doorbell. It may ring twice, late, or for a finished job: the store is the truth.

    A bell that was received and neither acked nor retried comes again after `visibility_seconds`.
    """

    async def send(self, job_id: str, *, at: float) -> None:
        """Ring at `at` or soon after. Sending again for a job that already waits keeps the earlier time."""
        ...

    async def receive(self, *, limit: int, visibility_seconds: float, wait_seconds: float) -> Sequence[Bell]:
        """Due bells, earliest first; waits up to `wait_seconds` for the first one, then returns what there is."""
        ...

    async def ack(self, bell: Bell) -> None:
        """The bell is dealt with. A receipt that is no longer current is ignored."""
        ...

    async def retry(self, bell: Bell, *, at: float) -> None:
        """Dealing with the bell failed: ring again at `at`. It counts, and a queue may give up on a bell that rings
        too often; for a job that only waits, `send` a new one and `ack` this."""
        ...


class Subscription(Protocol):
    async def wait(self, seconds: float) -> bool:
        """True once the topic was announced since the last wait returned True; False after `seconds`.

        May return True for no reason. Announcements made while nobody waits are not lost.
        """
        ...


class Wakeups(Protocol):
    """Tells waiters, in this process and in others on the same data, that something was written."""

    def announce(self, *topics: str) -> None: ...

    def subscribe(self, topic: str) -> AbstractContextManager[Subscription]: ...
