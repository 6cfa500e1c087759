"""What runs Claude Code on one order."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from overnight.domain.job import JobRequest
from overnight.domain.outcome import Outcome

Owner = tuple[int, int]
"""Numeric user and group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one run on this machine. `owner`: the user that it runs as and that its files must belong to;
    None, if that is the service's own."""

    owner: Owner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The directories of one attempt: `files` is what the agent works in, `home` its HOME.

    `transcripts` is the folder inside `home` that holds the conversation (`{session_id}.jsonl` and its
    side files). `owner` is that of the slot: `files` and `home` belong to it.
    """

    root: Path
    files: Path
    home: Path
    transcripts: Path
    owner: Owner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """All that the agent needs for one attempt. `prompt` is final (a continuation has been put into words);
    `spent_usd` is what earlier attempts of the job cost, up to `charged_attempt`. `owner`, `daily_budget_usd` (of all
    jobs of the owner) and `models` (none named: all) are the job's."""

    job_id: str
    attempt: int
    session_id: str
    prompt: str
    request: JobRequest
    workspace: Workspace
    spent_usd: float = 0.0
    charged_attempt: int = 0
    owner: str = ""
    daily_budget_usd: float | None = None
    models: tuple[str, ...] = ()


class Stop(Protocol):
    """How a run is told to end. `reason` is set before `wait` returns."""

    async def wait(self) -> None: ...

    def is_set(self) -> bool: ...


class Agent(Protocol):
    @property
    def isolation(self) -> str:
        """The tier that runs are kept in, as proved at start-up."""
        ...

    @property
    def isolation_properties(self) -> Mapping[str, bool]:
        """What was measured of the tier: the name of each property, and whether it holds."""
        ...

    def slot(self, *, prefer: Owner | None = None) -> AbstractAsyncContextManager[Slot]:
        """Held from before the workspace is prepared until the run has returned; no two runs of this machine
        hold the same owner at once. It is that of `prefer`, if there is such a slot and nobody holds it. Entering
        raises OSError if there is none."""
        ...

    async def run(
        self, order: RunOrder, *, emit: Callable[[str, Mapping[str, Any]], None], stop: Stop
    ) -> Outcome:
        """Run Claude Code on the order until it ends or `stop` is set.

        - `emit(type, data)` is called for every message, in order; it does not block.
        - A run that was stopped returns `Ending.INTERRUPTED` with what it cost so far: the caller knows why.
        - When this returns or raises, no process of the run is alive. It raises only CancelledError.
        """
        ...

    async def reap(self, root: Path) -> None:
        """Kill whatever the run that last used this workspace root left alive (its worker died, or froze)."""
        ...
