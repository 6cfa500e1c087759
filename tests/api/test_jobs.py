"""POST /execute and the calls about jobs."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from overnight.api import Readiness
from overnight.domain.job import Status
from overnight.ports import Bell, StorageFailed, StorageFull

FULL = {
    "prompt": "write a program",
    "callback_url": "https://EXAMPLE.com",
    "model": "claude-sonnet-4-5[1m]",
    "max_turns": 5,
    "max_budget_usd": 0.5,
    "timeout_seconds": 60,
    "append_system_prompt": "be brief",
    "allowed_tools": ["Bash(git *)", "Read"],
    "disallowed_tools": ["WebFetch"],
    "output_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    "metadata": {"ticket": "7"},
}


async def submit(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/execute", json={"prompt": "p", **body})
    assert response.status_code == 202, response.text
    accepted: dict[str, Any] = response.json()
    return accepted


async def test_an_accepted_job_is_stored_and_its_bell_rings(service: Any, client: Any) -> None:
    response = await client.post("/execute", json=FULL)

    assert response.status_code == 202
    body = response.json()
    assert body == {
        "job_id": body["job_id"],
        "session_id": body["session_id"],
        "status": "queued",
        "message": "Job queued for processing",
    }
    assert response.headers["location"] == f"/status/{body['job_id']}"
    kept = await service.parts.store.request(body["job_id"])
    assert kept.callback_url == "https://example.com/"
    assert (kept.model, kept.max_turns, kept.timeout_seconds) == ("claude-sonnet-4-5[1m]", 5, 60.0)
    assert kept.allowed_tools == ("Bash(git *)", "Read")
    assert kept.output_schema == FULL["output_schema"]
    bells = await service.parts.queue.receive(limit=9, visibility_seconds=1, wait_seconds=0)
    assert [bell.job_id for bell in bells] == [body["job_id"]]


async def test_the_default_timeout_is_the_cap(service: Any, client: Any) -> None:
    job = await submit(client)
    assert (await service.parts.store.request(job["job_id"])).timeout_seconds == 1500.0


async def test_a_job_goes_on_in_a_named_session(client: Any) -> None:
    first = await submit(client)
    second = await submit(client, session_id=first["session_id"])

    assert second["session_id"] == first["session_id"]
    shown = (await client.get(f"/jobs/{second['job_id']}")).json()
    assert (shown["waiting_for"], shown["queue_position"]) == ("session", 1)


async def test_an_unknown_session_is_refused_and_nothing_is_created(service: Any, client: Any) -> None:
    response = await client.post("/execute", json={"prompt": "p", "session_id": str(uuid4())})

    assert (response.status_code, response.json()["code"]) == (404, "session_not_found")
    assert (await service.parts.index.jobs()).rows == []
    assert (await service.parts.index.sessions()).rows == []


class TestIdempotency:
    async def test_a_burst_of_equal_posts_makes_one_job(self, service: Any, client: Any) -> None:
        answers = await asyncio.gather(
            *(
                client.post("/execute", json={"prompt": "p"}, headers={"Idempotency-Key": "k"})
                for _ in range(50)
            )
        )

        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert len((await service.parts.index.jobs()).rows) == 1

    async def test_the_order_of_names_and_spelled_out_defaults_do_not_matter(self, client: Any) -> None:
        key = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        await client.post("/execute", content=b'{"prompt":"p","max_turns":3}', headers=key)
        again = await client.post(
            "/execute", content=b'{"max_turns": 3, "model": null, "prompt": "p"}', headers=key
        )
        assert again.headers["idempotent-replayed"] == "true"

    async def test_a_replay_is_the_first_answer_also_when_the_job_has_finished(
        self, service: Any, client: Any
    ) -> None:
        key = {"Idempotency-Key": "k"}
        first = await client.post("/execute", json={"prompt": "p"}, headers=key)
        await service.run(first.json()["job_id"])

        again = await client.post("/execute", json={"prompt": "p"}, headers=key)

        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["idempotent-replayed"] == "true"

    async def test_another_body_under_the_same_key_is_refused(self, service: Any, client: Any) -> None:
        key = {"Idempotency-Key": "k"}
        await client.post("/execute", json={"prompt": "p"}, headers=key)

        other = await client.post("/execute", json={"prompt": "q"}, headers=key)

        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert len((await service.parts.index.jobs()).rows) == 1

    @pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, b"\xc3\xa9", b"a\tb"])
    async def test_a_key_that_does_not_fit_is_refused(self, client: Any, key: bytes) -> None:
        answer = await client.post("/execute", json={"prompt": "p"}, headers=[(b"Idempotency-Key", key)])
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")

    async def test_two_keys_are_refused(self, client: Any) -> None:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        answer = await client.post("/execute", json={"prompt": "p"}, headers=headers)
        assert answer.json()["code"] == "invalid_idempotency_key"


class LostQueue:
    async def send(self, job_id: str, *, at: float) -> None:
        raise StorageFailed("the queue is away")

    async def receive(self, **_: Any) -> list[Bell]:
        return []


async def test_a_job_is_accepted_although_its_bell_is_lost(service_with: Any) -> None:
    service = service_with(queue=LostQueue())
    async with service.client() as client:
        job = await submit(client)
    assert (await service.parts.store.snapshot(job["job_id"])).job.status is Status.QUEUED


async def test_while_draining_no_job_is_taken(service: Any, client: Any) -> None:
    service.readiness.append(Readiness(ok=False, draining=True, isolation="none"))

    answer = await client.post("/execute", json={"prompt": "p"})

    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert int(answer.headers["retry-after"]) > 0
    assert (await service.parts.index.jobs()).rows == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageFull("full"), 507, "storage_full"),
        (StorageFailed("failed"), 503, "storage_failed"),
        (RuntimeError("secret of the inside"), 500, "internal"),
    ],
)
async def test_a_failing_store_is_a_problem(
    service_with: Callable[..., Any], error: Exception, status: int, code: str
) -> None:
    class Broken:
        async def create(self, *_: Any, **__: Any) -> None:
            raise error

    service = service_with(store=Broken())
    async with service.client() as client:
        answer = await client.post("/execute", json={"prompt": "p"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "inside" not in answer.text


async def test_the_story_of_a_job(service: Any, client: Any) -> None:
    accepted = await submit(client, metadata={"a": "b"})
    job_id, session_id = accepted["job_id"], accepted["session_id"]
    queued = (await client.get(f"/status/{job_id}")).json()
    assert queued["status"] == "queued"
    assert queued["available_at"] is None
    assert queued["links"] == {
        "self": f"/jobs/{job_id}",
        "events": f"/jobs/{job_id}/events",
        "session": f"/sessions/{session_id}",
    }

    await service.run(job_id, "forty-two", {"a.txt": b"a"})

    done = (await client.get(f"/jobs/{job_id}")).json()
    assert done == (await client.get(f"/status/{job_id}")).json()
    assert (done["status"], done["result"], done["cost_usd"]) == ("completed", "forty-two", 0.25)
    assert (done["metadata"], done["attempt"], done["isolation"]) == ({"a": "b"}, 1, "namespace")
    assert queued["isolation_properties"] == {}
    assert done["isolation_properties"] == {"files": True, "process_limit": False}
    assert done["archive"] == f"claude-code/{session_id}/{job_id}.1.zip"
    assert done["completed_at"].endswith("Z")
    assert len(done["completed_at"]) == len("2025-01-01T00:00:00.000Z")
    assert "callback_url" not in done


class TestListing:
    async def test_pages_lead_to_every_job_newest_first(self, client: Any) -> None:
        made = [(await submit(client))["job_id"] for _ in range(5)]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/jobs", params=params)).json()
            seen += [row["job_id"] for row in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == made[::-1]

    async def test_it_can_be_narrowed_and_leaves_out_results(self, service: Any, client: Any) -> None:
        done, waiting, cancelled = [await submit(client) for _ in range(3)]
        await service.run(done["job_id"])
        await client.post(f"/jobs/{cancelled['job_id']}/cancel")

        final = (await client.get("/jobs?status=completed&status=cancelled")).json()["data"]
        own = (await client.get(f"/jobs?session_id={waiting['session_id']}")).json()["data"]

        assert [row["job_id"] for row in final] == [cancelled["job_id"], done["job_id"]]
        assert all("result" not in row and "structured_output" not in row for row in final)
        assert [row["job_id"] for row in own] == [waiting["job_id"]]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("status=secret-word", "invalid_request"),
            ("limit=0", "invalid_request"),
            ("limit=101", "invalid_request"),
            ("limit=%C2%B2", "invalid_request"),
            ("limit=1&limit=2", "invalid_request"),
            ("colour=secret-word", "invalid_request"),
            ("session_id=secret-word", "invalid_id"),
            ("cursor=secret-word", "invalid_cursor"),
        ],
    )
    async def test_a_query_that_does_not_fit_is_refused(self, client: Any, query: str, code: str) -> None:
        answer = await client.get(f"/jobs?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert "secret-word" not in answer.text


class TestCancel:
    async def test_a_waiting_job_is_cancelled_at_once(self, client: Any) -> None:
        job = await submit(client)
        first = await client.post(f"/jobs/{job['job_id']}/cancel")
        again = await client.post(f"/jobs/{job['job_id']}/cancel")
        assert (first.status_code, first.json()["status"]) == (200, "cancelled")
        assert again.json() == first.json()

    async def test_a_running_one_is_asked_to_stop(self, service: Any, client: Any) -> None:
        job = await submit(client)
        await service.start(job["job_id"])

        answer = await client.post(f"/jobs/{job['job_id']}/cancel")

        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
        assert answer.json()["cancel_requested_at"] is not None

    async def test_the_next_of_the_line_is_rung(self, service: Any, client: Any) -> None:
        first = await submit(client)
        second = await submit(client, session_id=first["session_id"])
        for bell in await service.parts.queue.receive(limit=9, visibility_seconds=60, wait_seconds=0):
            await service.parts.queue.ack(bell)

        await client.post(f"/jobs/{first['job_id']}/cancel")

        bells = await service.parts.queue.receive(limit=9, visibility_seconds=1, wait_seconds=0)
        assert [bell.job_id for bell in bells] == [second["job_id"]]


class TestRetry:
    async def test_a_dead_letter_is_queued_again(self, service: Any, client: Any) -> None:
        job = await submit(client)
        await service.fail(job["job_id"])
        dead = (await client.get(f"/jobs/{job['job_id']}")).json()
        assert dead["error"] == {"code": "max_turns", "message": "It took all its turns.", "retryable": False}

        first = await client.post(f"/jobs/{job['job_id']}/retry")
        again = await client.post(f"/jobs/{job['job_id']}/retry")

        assert (first.status_code, first.json()["status"], first.json()["error"]) == (202, "queued", None)
        assert (again.status_code, again.json()["status"]) == (202, "queued")

    async def test_a_completed_or_cancelled_job_cannot_be(self, service: Any, client: Any) -> None:
        done, cancelled = await submit(client), await submit(client)
        await service.run(done["job_id"])
        await client.post(f"/jobs/{cancelled['job_id']}/cancel")
        for job in (done, cancelled):
            answer = await client.post(f"/jobs/{job['job_id']}/retry")
            assert (answer.status_code, answer.json()["code"]) == (409, "not_retryable")


class TestDeliveries:
    async def test_the_log_shows_no_address_and_no_body(self, service: Any, client: Any) -> None:
        job = await submit(client, callback_url="https://example.com/hook?token=secret-word")
        assert (await client.get(f"/jobs/{job['job_id']}/deliveries")).json() == {"data": []}
        await service.run(job["job_id"])

        listed = await client.get(f"/jobs/{job['job_id']}/deliveries")

        (delivery,) = listed.json()["data"]
        assert (delivery["status"], delivery["tries"]) == ("owed", [])
        assert delivery["next_at"] is not None
        assert "secret-word" not in listed.text
        assert "example.com" not in listed.text

    async def test_one_can_be_owed_again(self, service: Any, client: Any) -> None:
        job = await submit(client, callback_url="https://example.com/hook")
        await service.run(job["job_id"])
        (delivery,) = (await client.get(f"/jobs/{job['job_id']}/deliveries")).json()["data"]

        answer = await client.post(f"/deliveries/{delivery['id']}/redeliver")

        assert (answer.status_code, answer.json()["id"]) == (202, delivery["id"])


async def test_what_is_not_there(client: Any) -> None:
    unknown = str(uuid4())
    for method, path, code in [
        ("GET", f"/status/{unknown}", "job_not_found"),
        ("GET", f"/jobs/{unknown}", "job_not_found"),
        ("GET", f"/jobs/{unknown}/events", "job_not_found"),
        ("GET", f"/jobs/{unknown}/deliveries", "job_not_found"),
        ("POST", f"/jobs/{unknown}/cancel", "job_not_found"),
        ("POST", f"/jobs/{unknown}/retry", "job_not_found"),
        ("POST", f"/deliveries/msg_{'0' * 32}/redeliver", "delivery_not_found"),
        ("GET", "/nothing", "not_found"),
        ("POST", "/execute/", "not_found"),
    ]:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, code), path


HOSTILE_IDS = [
    "x",
    "%00",
    "..%2f..%2fetc",
    "{uuid}%0a",
    "urn:uuid:{uuid}",
    "%7B{uuid}%7D",
    "{UUID}",
    "%EF%BC%91" * 8,
    "%ff%fe",
    "a" * 5000,
]


@pytest.mark.parametrize("hostile", HOSTILE_IDS)
async def test_a_malformed_id_in_a_path_names_nothing(client: Any, hostile: str) -> None:
    job = await submit(client)
    hostile = hostile.replace("{uuid}", job["job_id"]).replace("{UUID}", job["job_id"].upper())
    for path in ("/jobs/{}", "/jobs/{}/events", "/sessions/{}", "/sessions/{}/archive", "/sessions/{}/files"):
        answer = await client.get(path.format(hostile))
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.post(f"/deliveries/{hostile}/redeliver")).status_code == 404
