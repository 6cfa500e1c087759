"""Places in a listing or a stream, by grammar: taken or refused in documented words, and answered soon."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

steady = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

CANARY = "cnry7f3a"
"""The one of conftest.py, which a strategy cannot ask for."""

numbers = st.one_of(
    st.integers(-2, 5).map(str),
    st.integers(2**53 - 1, 2**64 + 1).map(str),
    st.sampled_from(
        ["", " ", "1 ", "+1", "-0", "1.0", "1e3", "0x1", "NaN", "inf", "true", "null", "9" * 5000]
    ),
    st.sampled_from(["\u0663", "\uff11", "1\n", "1,2", "1_000", CANARY]),
)
times = st.one_of(numbers, st.floats().map(repr), st.floats(0, 2e9).map(repr))
ids = st.one_of(st.uuids().map(str), st.uuids().map(lambda uuid: str(uuid).upper()), st.just(CANARY))
cursors = st.one_of(
    numbers, ids, st.builds("{}:{}".format, times, ids), st.text(max_size=30), st.just(CANARY * 30)
)
names = st.sampled_from(["after", "limit", "cursor", "status", "session_id", CANARY, ""])
queries = st.lists(st.tuples(names, st.one_of(numbers, cursors)), max_size=3)
last_event_ids = st.one_of(
    st.none(),
    numbers.map(lambda text: text.encode()),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20).map(
        lambda t: t.encode("latin-1")
    ),
)
places = st.sampled_from(["/jobs/{}/events", "/jobs", "/sessions"])


@steady
@given(places, queries, last_event_ids, st.booleans())
@example("/jobs/{}/events", [("after", "9007199254740993")], None, False)
@example("/sessions", [("cursor", f"nan:{CANARY}")], None, False)
@example("/jobs/{}/events", [], b"1", True)
def test_a_place_is_taken_or_refused(
    api: Any,
    refusal: Callable[[httpx.Response], dict[str, Any]],
    place: str,
    query: list[tuple[str, str]],
    last_event_id: bytes | None,
    stream: bool,
) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        path = place.format(await finished_job(client))
        headers = [(b"accept", b"text/event-stream" if stream else b"application/json")]
        headers += [] if last_event_id is None else [(b"last-event-id", last_event_id)]
        async with asyncio.timeout(10):
            answer = await client.get(path, params=urlencode(query), headers=headers)
        if answer.status_code in {200, 204}:
            assert CANARY not in answer.text
        else:
            refusal(answer)

    api.run(story)


async def finished_job(client: httpx.AsyncClient) -> str:
    """The one job, cancelled: its stream ends. An Idempotency-Key keeps it one for all examples."""
    job = await client.post("/execute", json={"prompt": "x"}, headers={"idempotency-key": "one"})
    job_id = str(job.json()["job_id"])
    await client.post(f"/jobs/{job_id}/cancel")
    return job_id
