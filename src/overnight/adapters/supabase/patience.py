"""Trying again what may go well the next time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx

from overnight.adapters.supabase.faults import Fault, StorageFault

T = TypeVar("T")

DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the tries of one request."""


class Unreachable(OSError):
    """Tried often enough. What was stored before is as it was."""


@dataclass(frozen=True, slots=True)
class Patience:
    """`chance` spreads the delays over their upper half, so that workers do not return together."""

    chance: Callable[[], float]
    delays: tuple[float, ...] = DELAYS
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def over(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, once it does. Raises StorageFault that does not pass, and Unreachable."""
        for delay in self.delays:
            try:
                return await attempt()
            except (httpx.TransportError, StorageFault) as error:
                if not passes(error):
                    raise
            await self.wait(delay)
        try:
            return await attempt()
        except (httpx.TransportError, StorageFault) as error:
            if not passes(error):
                raise
            raise unreachable(error) from error

    async def wait(self, seconds: float) -> None:
        await self.pause(seconds * (1 + self.chance()) / 2)


def passes(error: httpx.TransportError | StorageFault) -> bool:
    return isinstance(error, httpx.TransportError) or error.fault is Fault.PASSING


def unreachable(error: Exception) -> Unreachable:
    said = error.code if isinstance(error, StorageFault) else type(error).__name__
    return Unreachable(f"Supabase Storage did not answer as it should, however often it was asked ({said}).")
