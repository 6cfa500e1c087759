"""Steps that can be taken again: each looks first whether it has been taken, so a run goes on where one ended."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    """How a step stands: it was done before, is done now, or would be."""

    THERE = "there"
    DONE = "done"
    TO_DO = "to do"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`look` changes nothing, and returns what is there already, or None if the step is to be taken. `take` returns
    what it did. `plan` says what it would do. What either raises among `TROUBLES` ends the run in words."""

    name: str
    plan: str
    look: Callable[[], Awaitable[str | None]]
    take: Callable[[], Awaitable[str]]


class StepFailed(Exception):
    """Why a step could not be taken. `done` and `left` are the names of the others."""

    def __init__(self, step: str, reason: str, done: Sequence[str], left: Sequence[str]) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason
        self.done = tuple(done)
        self.left = tuple(left)


Tell = Callable[[str, Mark, str], None]
"""Called with each step's name, how it stands, and what there is to say."""


async def carry_out(steps: Sequence[Step], tell: Tell, *, troubles: tuple[type[Exception], ...]) -> None:
    """Take what is to be taken, in order. Raises StepFailed at the first of `troubles`."""
    for place, step in enumerate(steps):
        try:
            found = await step.look()
            if found is not None:
                tell(step.name, Mark.THERE, found)
            else:
                tell(step.name, Mark.DONE, await step.take())
        except troubles as error:
            raise _failed(steps, place, error) from error


async def look_only(steps: Sequence[Step], tell: Tell, *, troubles: tuple[type[Exception], ...]) -> None:
    """Tell the plan, and change nothing. Raises StepFailed if it cannot even be looked."""
    for place, step in enumerate(steps):
        try:
            found = await step.look()
        except troubles as error:
            raise _failed(steps, place, error) from error
        tell(step.name, Mark.TO_DO if found is None else Mark.THERE, step.plan if found is None else found)


def _failed(steps: Sequence[Step], place: int, error: Exception) -> StepFailed:
    names = [step.name for step in steps]
    return StepFailed(names[place], str(error), names[:place], names[place + 1 :])
