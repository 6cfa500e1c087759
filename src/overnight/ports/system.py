"""The machine: time, randomness, and which processes are alive."""

from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""
        ...


class Entropy(Protocol):
    def job_id(self) -> str: ...

    def session_id(self) -> str: ...

    def delivery_id(self) -> str: ...

    def chance(self) -> float:
        """A random number from [0, 1)."""
        ...

    def token(self) -> str:
        """256 random bits, URL-safe."""
        ...


class Roster(Protocol):
    """Which workers are alive, as far as this machine can know."""

    def is_dead(self, worker: str) -> bool:
        """True only if it is certain: the process that held this name on this machine is gone."""
        ...
