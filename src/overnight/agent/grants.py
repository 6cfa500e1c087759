"""What one run may do at the gateway, and what it has used of it."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from overnight.agent.metering import Meter, Question
from overnight.agent.prices import Metered
from overnight.agent.traffic import Traffic

CONCURRENT_CALLS = 8


def no_limit(_used_usd: float) -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """None is no limit. `models` are names as `domain/models.py` reads them, `concurrency` is calls at once.

    `budget_left` is asked at every step: it is told what this run has used, and says how much of the budget of its
    day (`daily_usd`) the owner of the job has left for this run, all in US dollars.
    """

    models: frozenset[str] | None = None
    concurrency: int = CONCURRENT_CALLS
    usd: float | None = None
    daily_usd: float | None = None
    budget_left: Callable[[float], float | None] = no_limit


@dataclass(slots=True, eq=False)
class Grant:
    """One run's right to use the gateway. It ends by `revoke`, and never begins again.

    `over_budget` is set when the allowance is used up, and `over_daily` says that it was the owner's budget of the
    day. `unreachable` and `resets_at` (Unix seconds, when the API said that its rate limit is over) tell of the last
    call.
    """

    digest: bytes
    allowance: Allowance = field(default_factory=Allowance)
    unreachable: bool = False
    resets_at: float | None = None
    revoked: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    over_daily: bool = False
    over_budget: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: Metered = field(default_factory=Metered)
    _calls: dict["asyncio.Task[Any]", Meter] = field(default_factory=dict)
    _taken: int = 0

    @property
    def used(self) -> Metered:
        """By all calls, also those that go on."""
        return sum((meter.metered for meter in self._calls.values()), self._ended)

    @property
    def is_full(self) -> bool:
        return self._taken >= self.allowance.concurrency

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Of one call, from before its body is read: bodies take memory."""
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def revoke(self) -> None:
        """The token is dead from now on; calls that are under way are broken off."""
        self.revoked = True
        for call in self._calls:
            call.cancel()

    @contextlib.contextmanager
    def call(self, task: "asyncio.Task[Any]", question: Question) -> Iterator[Meter]:
        """Count what `task` uses. It is cancelled when the grant ends."""
        meter = self._calls[task] = Meter(question)
        try:
            yield meter
        finally:
            self._ended += self._calls.pop(task).metered
            self.check()

    def check(self) -> bool:
        """Whether there is budget left. When it is used up, the calls of others than the caller are broken off."""
        if not self.over_budget.is_set() and self._is_spent():
            self.over_budget.set()
            for call in self._calls:
                if call is not asyncio.current_task():
                    call.cancel()
        return not self.over_budget.is_set()

    def _is_spent(self) -> bool:
        used, allowance = self.used, self.allowance
        left = allowance.budget_left(used.cost_usd)
        if allowance.usd is not None and used.cost_usd >= allowance.usd:
            return True
        self.over_daily = left is not None and used.cost_usd >= left
        return self.over_daily


def digest_of(token: str) -> bytes:
    """A token is kept as this only."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
