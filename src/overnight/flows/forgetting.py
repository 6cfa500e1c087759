"""Jobs that are long over are forgotten, a few at a time: the database must not grow for ever."""

from dataclasses import dataclass

from overnight.ports import Clock, JobHistory

JOBS_AT_ONCE = 50
"""In one transaction: others write in between."""
TURNS = 20


@dataclass(slots=True, kw_only=True)
class Forgetting:
    """Those that ended `seconds` ago or before. `cursor` is where the walk over the jobs goes on next time; None: at
    the oldest."""

    history: JobHistory
    clock: Clock
    seconds: float
    cursor: str | None = None

    async def once(self) -> None:
        for _ in range(TURNS):
            self.cursor = await self.history.forget(
                finished_before=self.clock.now() - self.seconds, after=self.cursor, limit=JOBS_AT_ONCE
            )
            if self.cursor is None:
                return
