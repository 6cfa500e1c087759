"""How a response goes over the wire: late, in two halves, cut off, or not at all."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import StreamingResponse
from starlette.types import Send

from overnight.rehearsal.directives import ApiError, Delay, Drop, Stall
from overnight.rehearsal.script import Reply, RunKey

_COUNTERS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class FaultKey:
    """`line`: of the directive in its prompt."""

    session: str
    run: RunKey
    line: int


class FaultCounts:
    """How often each fault has happened. The oldest are forgotten when there are very many."""

    def __init__(self) -> None:
        self._happened: OrderedDict[FaultKey, int] = OrderedDict()

    def take(self, key: FaultKey, times: int | None) -> bool:
        """Whether the fault happens once more, which is counted. `times` None: it always does."""
        if times is None:
            return True
        happened = self._happened.get(key, 0)
        if happened >= times:
            return False
        self._happened[key] = happened + 1
        if len(self._happened) > _COUNTERS_KEPT:
            self._happened.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Staging:
    """Delay before the first byte and stall in the middle are seconds."""

    delay: float = 0.0
    stall: float = 0.0
    drop: bool = False
    error: ApiError | None = None


def stage(reply: Reply, session: str, counts: FaultCounts) -> Staging:
    """Faults in the order of the script; the first error or drop that is due ends them."""
    delay = stall = 0.0
    for line, fault in reply.faults:
        match fault:
            case Delay(seconds):
                delay += seconds
            case Stall(seconds):
                stall += seconds
            case ApiError() | Drop():
                if counts.take(FaultKey(session, reply.run, line), fault.times):
                    error = fault if isinstance(fault, ApiError) else None
                    return Staging(delay, stall, drop=error is None, error=error)
    return Staging(delay, stall)


class Dropped(Exception):
    """The response ends here, unfinished: not an error but what the script asks for."""


class Pauses:
    """Pauses end when the API closes, so that a long one does not hold it up."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()

    def close(self) -> None:
        self._closing.set()

    async def pause(self, seconds: float) -> None:
        """Raises Dropped if the API closes in the meantime."""
        if seconds == 0:
            return
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return
        raise Dropped


class StagedResponse(StreamingResponse):
    """An unfinished response makes the server close the connection (and log one line about it)."""

    def __init__(
        self,
        parts: Sequence[bytes],
        staging: Staging,
        pauses: Pauses,
        *,
        media_type: str,
        headers: Mapping[str, str],
        status_code: int = 200,
    ) -> None:
        self._delay = staging.delay
        self._pauses = pauses
        played = _played(parts, staging, pauses)
        super().__init__(played, status_code, headers, media_type)

    async def stream_response(self, send: Send) -> None:
        try:
            await self._pauses.pause(self._delay)
            await super().stream_response(send)
        except Dropped:
            return


async def _played(parts: Sequence[bytes], staging: Staging, pauses: Pauses) -> AsyncIterator[bytes]:
    middle = len(parts) // 2
    for part in parts[:middle]:
        yield part
    await pauses.pause(staging.stall)
    if staging.drop:
        raise Dropped
    for part in parts[middle:]:
        yield part
