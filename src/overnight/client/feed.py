"""The events of a job as one unbroken sequence, over as many connections as it takes."""

from collections.abc import AsyncGenerator, Iterable, Iterator

import httpx
from msgspec import DecodeError, json

from overnight.client.connection import SILENCE_SECONDS, Connection, Request, segment
from overnight.client.errors import ApiProblem, ServiceUnreachable
from overnight.client.model import TERMINAL_EVENTS, Event
from overnight.client.sse import Parser

REOPENS = "job.resent"


class Feed:
    """Where the reader of a job's events stands.

    The end is said by the service (204), not guessed from a final event: a job that failed and was sent again
    has events after its `job.failed`, and one whose archive could be stored only later has one after its end.
    """

    def __init__(self, connection: Connection, job_id: str, after: int) -> None:
        self._connection = connection
        self._path = f"/jobs/{segment(job_id)}/events"
        self._last = after
        self._ended = False
        self._fruitless = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Raises ApiProblem, and ServiceUnreachable when patience has run out without a new event."""
        while True:
            cause: ApiProblem | ServiceUnreachable
            cause = ServiceUnreachable(self._connection.url, "the event stream ended early")
            try:
                async with self._connection.stream(self._request()) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    parser = Parser()
                    async for chunk in response.aiter_bytes():
                        for event in self._new(parser.feed(chunk)):
                            yield event
            except (ApiProblem, ServiceUnreachable) as refusal:
                cause = refusal
            if self._ended and (self._fruitless or isinstance(cause, ApiProblem)):
                return
            await self._rest_after(cause)

    def _request(self) -> Request:
        return Request(
            method="GET",
            path=self._path,
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(self._last)},
            silence=SILENCE_SECONDS,
        )

    def _new(self, told: Iterable[str]) -> Iterator[Event]:
        for data in told:
            event = _event(data)
            if event.seq > self._last:
                self._last, self._fruitless = event.seq, 0
                self._ended = event.type in TERMINAL_EVENTS or (self._ended and event.type != REOPENS)
                yield event

    async def _rest_after(self, cause: ApiProblem | ServiceUnreachable) -> None:
        """Pause before the next connection; raises the cause if there shall be none."""
        self._fruitless += 1
        if self._ended:
            return  # the service only has to say whether more comes
        delays = self._connection.patience.delays
        if self._fruitless > len(delays):
            raise cause
        wait = self._connection.patience.wait(cause, delays[self._fruitless - 1])
        if wait is None:
            raise cause
        await self._connection.pause(wait)


def _event(data: str) -> Event:
    try:
        return json.decode(data, type=Event)
    except DecodeError as error:
        raise ApiProblem(httpx.codes.OK, "unexpected_answer", "That is not an event of overnight.") from error
