"""GET /jobs/{id}/events: pages, and streams over a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Self

import httpx
import pytest

from overnight.api import close_streams
from overnight.api.events import follow
from overnight.domain.outcome import Ending, Outcome

SSE = {"Accept": "text/event-stream"}


async def submit(client: httpx.AsyncClient) -> str:
    return str((await client.post("/execute", json={"prompt": "p"})).json()["job_id"])


async def submit_to(service: Any) -> str:
    async with service.client() as client:
        return await submit(client)


class Reading:
    """A stream of events, read line by line; nothing is fetched before it is asked for."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def events(self, number: int) -> list[dict[str, str]]:
        return [event async for event in self._some(number)]

    async def rest(self) -> list[dict[str, str]]:
        return [event async for event in self._some(None)]

    async def _some(self, number: int | None) -> AsyncIterator[dict[str, str]]:
        event: dict[str, str] = {}
        if number == 0:
            return
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if line and name:
                event[name] = value
            elif "id" in event:
                yield event
                event = {}
                number = number and number - 1
                if number == 0:
                    return


class TestPages:
    async def test_a_page_says_how_to_go_on_and_when_it_is_over(self, service: Any, client: Any) -> None:
        job_id = await submit(client)
        await service.start(job_id)
        await service.tell(job_id, "one", "two")

        first = (await client.get(f"/jobs/{job_id}/events?limit=2")).json()
        second = (await client.get(f"/jobs/{job_id}/events?after={first['next_after']}")).json()

        assert [event["type"] for event in first["data"]] == ["job.queued", "job.started"]
        assert [event["data"] for event in second["data"]] == [{"text": "one"}, {"text": "two"}]
        assert (second["next_after"], second["final"]) == (4, False)
        assert set(second["data"][0]) == {"seq", "type", "time", "job_id", "session_id", "attempt", "data"}

    @pytest.mark.parametrize("limit", ["", "&limit=1000", "&limit=7"])
    async def test_who_goes_on_page_by_page_sees_each_event_once(
        self, service: Any, client: Any, limit: str
    ) -> None:
        job_id = await submit(client)
        await service.start(job_id)
        await service.tell(job_id, *map(str, range(230)))
        await service.finish(job_id, Outcome(ending=Ending.DONE, result=""))
        seen, page = [], {"final": False, "next_after": 0}
        while not page["final"]:
            page = (await client.get(f"/jobs/{job_id}/events?after={page['next_after']}{limit}")).json()
            seen += [event["seq"] for event in page["data"]]
        assert seen == list(range(1, 234))

    async def test_final_is_said_with_the_last_event_only(self, service: Any, client: Any) -> None:
        job_id = await submit(client)
        await service.run(job_id)
        part = (await client.get(f"/jobs/{job_id}/events?limit=1")).json()
        rest = (await client.get(f"/jobs/{job_id}/events?after=1")).json()
        nothing = (await client.get(f"/jobs/{job_id}/events?after=3")).json()
        assert (part["final"], rest["final"]) == (False, True)
        assert nothing == {"data": [], "next_after": 3, "final": True}

    @pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", f"after={2**60}", "after=1&after=2"])
    async def test_a_query_that_does_not_fit_is_refused(self, client: Any, query: str) -> None:
        job_id = await submit(client)
        assert (await client.get(f"/jobs/{job_id}/events?{query}")).status_code == 422


class TestStream:
    async def test_replay_then_live_without_a_gap_until_the_end(self, service: Any, url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job_id = await submit(client)
            await service.start(job_id)
            async with client.stream("GET", f"/jobs/{job_id}/events", headers=SSE) as response:
                assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
                reading = Reading(response)
                replayed = await reading.events(2)
                for word in ("one", "two\nlines"):
                    await service.tell(job_id, word)
                live = await reading.events(2)
                await service.finish(job_id, _done())
                rest = await reading.rest()

        events = [*replayed, *live, *rest]
        assert [event["id"] for event in events] == ["1", "2", "3", "4", "5"]
        assert [event["event"] for event in rest] == ["job.completed"]
        told = json.loads(live[1]["data"])
        assert (told["seq"], told["type"], told["data"]) == (4, "agent.text", {"text": "two\nlines"})

    async def test_events_written_while_it_replays_come_once_and_in_order(
        self, service: Any, url: str
    ) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job_id = await submit(client)
            await service.start(job_id)
            await service.tell(job_id, *(str(number) for number in range(250)))

            async def write() -> None:
                for number in range(250):
                    await service.tell(job_id, str(number))
                    await asyncio.sleep(0)
                await service.finish(job_id, _done())

            async with (
                asyncio.TaskGroup() as tasks,
                client.stream("GET", f"/jobs/{job_id}/events", headers=SSE) as response,
            ):
                tasks.create_task(write())
                seen = [int(event["id"]) for event in await Reading(response).rest()]
        assert seen == list(range(1, 504))

    @pytest.mark.parametrize("query", ["", "?after=1"])
    async def test_it_goes_on_after_last_event_id(self, service: Any, url: str, query: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job_id = await submit(client)
            await service.run(job_id)
            headers = SSE | {"Last-Event-ID": "2"}
            async with client.stream("GET", f"/jobs/{job_id}/events{query}", headers=headers) as response:
                assert [event["id"] for event in await Reading(response).rest()] == ["3"]

    @pytest.mark.parametrize("after", ["3", "999"])
    async def test_after_the_last_event_of_a_finished_job_there_is_nothing(
        self, service: Any, client: Any, after: str
    ) -> None:
        job_id = await submit(client)
        await service.run(job_id)
        answer = await client.get(f"/jobs/{job_id}/events", headers=SSE | {"Last-Event-ID": after})
        assert (answer.status_code, answer.content) == (204, b"")

    async def test_a_number_from_the_future_still_sees_the_end(self, service: Any, url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job_id = await submit(client)
            async with client.stream("GET", f"/jobs/{job_id}/events?after=999", headers=SSE) as response:
                await service.run(job_id)
                assert [event["id"] for event in await Reading(response).rest()] == ["2", "3"]

    async def test_a_failure_that_was_sent_again_does_not_end_the_replay(
        self, service: Any, url: str
    ) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job_id = await submit(client)
            await service.fail(job_id)
            await client.post(f"/jobs/{job_id}/retry")
            await service.run(job_id)
            async with client.stream("GET", f"/jobs/{job_id}/events", headers=SSE) as response:
                types = [event["event"] for event in await Reading(response).rest()]
        assert types[2:4] == ["job.failed", "job.resent"]
        assert types[-1] == "job.completed"

    @pytest.mark.parametrize("after", ["0", "2", "3"])
    async def test_what_is_told_after_the_end_does_not_keep_it_open(
        self, service: Any, url: str, after: str
    ) -> None:
        """An archive that the store took only later is told of after `job.completed`."""
        async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(5):
            job_id = await submit(client)
            await service.run(job_id)
            await service.save_late(job_id)
            headers = SSE | {"Last-Event-ID": after}
            async with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
                rest = await Reading(response).rest()
        assert [event["event"] for event in rest][-1] == "workspace.saved"
        assert rest[-1]["id"] == "4"

    async def test_a_malformed_last_event_id_is_refused(self, client: Any) -> None:
        job_id = await submit(client)
        for value in ("x", "-1", "1" * 400):
            answer = await client.get(f"/jobs/{job_id}/events", headers=SSE | {"Last-Event-ID": value})
            assert answer.status_code == 422

    async def test_head_does_not_open_a_stream(self, client: Any) -> None:
        job_id = await submit(client)
        answer = await client.head(f"/jobs/{job_id}/events", headers=SSE)
        assert (answer.status_code, answer.content) == (200, b"")

    async def test_streams_close_when_the_service_does(self, service: Any, url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job_id = await submit(client)
            async with client.stream("GET", f"/jobs/{job_id}/events", headers=SSE) as response:
                reading = Reading(response)
                await reading.events(1)
                close_streams(service.app)
                assert await reading.rest() == []

    async def test_a_client_that_goes_leaves_no_subscription(self, service_with: Any) -> None:
        wakeups = CountingWakeups()
        service = service_with()
        service = service_with(wakeups=wakeups, store=service.parts.store)
        async with service.client() as client:
            job_id = await submit(client)
        gone = asyncio.Event()
        request = asyncio.create_task(service.app(_scope(job_id), _receiver(gone), _ignore))
        await asyncio.wait_for(wakeups.subscribed.wait(), 5)
        gone.set()
        await asyncio.wait_for(request, 5)
        assert wakeups.open == 0

    async def test_what_is_written_between_replay_and_live_is_not_missed(self, service: Any) -> None:
        job_id = await submit_to(service)

        async def finish_after_the_first_read() -> None:
            await service.run(job_id)

        store = InterruptedStore(service.parts.store, finish_after_the_first_read)
        parts = replace(service.parts, store=store)
        job = (await store.snapshot(job_id)).job
        async with asyncio.timeout(5):  # far below the heartbeat, after which it would look again anyway
            text = b"".join([piece async for piece in follow(parts, job, 0)])
        assert [line for line in text.splitlines() if line.startswith(b"id:")] == [
            b"id: 1",
            b"id: 2",
            b"id: 3",
        ]


class InterruptedStore:
    """A store where something happens right after the first read of events."""

    def __init__(self, store: Any, then: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._then: Callable[[], Awaitable[None]] | None = then

    async def events(self, job_id: str, *, after: int = 0, limit: int = 100) -> Any:
        found = await self._store.events(job_id, after=after, limit=limit)
        then, self._then = self._then, None
        if then is not None:
            await then()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class CountingWakeups:
    """Nothing is ever announced; it knows how many listen."""

    def __init__(self) -> None:
        self.open = 0
        self.subscribed = asyncio.Event()

    def announce(self, *topics: str) -> None:
        pass

    def subscribe(self, topic: str) -> "CountingWakeups":
        return self

    def __enter__(self) -> Self:
        self.open += 1
        self.subscribed.set()
        return self

    def __exit__(self, *_: object) -> None:
        self.open -= 1

    async def wait(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False


def _done() -> Outcome:
    return Outcome(ending=Ending.DONE, result="done")


def _scope(job_id: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": f"/jobs/{job_id}/events",
        "query_string": b"",
        "headers": [(b"host", b"overnight.test"), (b"accept", b"text/event-stream")],
    }


def _receiver(gone: asyncio.Event) -> Any:
    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


async def _ignore(_: Any) -> None:
    pass
