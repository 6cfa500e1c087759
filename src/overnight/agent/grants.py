"""What one run may do at the gateway, and what it has used of it."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from overnight.agent.metering import Meter, Question
from overnight.agent.prices import Metered

CONCURRENT_CALLS = 8


def no_limit() -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """None is no limit. A call may ask for `max_tokens` of output at most: a higher wish is lowered to it.

    `budget_left` is asked at every step: the US dollars that the owner of the job has left, without what this run
    has spent.
    """

    models: frozenset[str] | None = None
    max_tokens: int | None = None
    concurrency: int = CONCURRENT_CALLS
    tokens: int | None = None
    usd: float | None = None
    budget_left: Callable[[], float | None] = no_limit


@dataclass(slots=True, eq=False)
class Grant:
    """One run's right to use the gateway. It ends by `revoke`, and never begins again.

    `over_budget` is set when the allowance is used up. `unreachable` and `resets_at` (Unix seconds, when the
    API said that its rate limit is over) tell of the last call.
    """

    digest: bytes
    allowance: Allowance = field(default_factory=Allowance)
    unreachable: bool = False
    resets_at: float | None = None
    revoked: bool = False
    over_budget: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: Metered = field(default_factory=Metered)
    _calls: dict["asyncio.Task[Any]", Meter] = field(default_factory=dict)

    @property
    def used(self) -> Metered:
        """By all calls, also those that go on."""
        return sum((meter.metered for meter in self._calls.values()), self._ended)

    @property
    def is_full(self) -> bool:
        return len(self._calls) >= self.allowance.concurrency

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
        if allowance.tokens is not None and used.tokens >= allowance.tokens:
            return True
        limits = (allowance.usd, allowance.budget_left())
        return any(limit is not None and used.cost_usd >= limit for limit in limits)


def digest_of(token: str) -> bytes:
    """A token is kept as this only."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
