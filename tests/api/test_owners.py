"""What is whose, and how much of it: owners and limits at the border."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.api.keyed import MSG, UUID, World, submit

from overnight.domain.errors import ErrorCode
from overnight.domain.keys import KeyLimits, Scope
from overnight.domain.outcome import failed


class TestOwners:
    async def test_another_owners_things_are_not_there(self, world: World) -> None:
        alice, bob, admin = [
            await world.key("alice"),
            await world.key("bob"),
            await world.key("root", Scope.ADMIN),
        ]
        async with world.client() as client:
            job = await submit(client, alice, callback_url="https://example.com/")
            await world.service.run(job["job_id"], files={"a.txt": b"a"})
            deliveries = f"/jobs/{job['job_id']}/deliveries"
            [delivery] = (await client.get(deliveries, headers=alice)).json()["data"]
            calls = [
                ("GET", f"/status/{job['job_id']}"),
                ("GET", f"/jobs/{job['job_id']}"),
                ("GET", f"/jobs/{job['job_id']}/events"),
                ("GET", deliveries),
                ("POST", f"/deliveries/{delivery['id']}/redeliver"),
                ("GET", f"/sessions/{job['session_id']}"),
                ("GET", f"/sessions/{job['session_id']}/files"),
                ("GET", f"/sessions/{job['session_id']}/files/a.txt"),
                ("GET", f"/sessions/{job['session_id']}/archive"),
                ("POST", f"/jobs/{job['job_id']}/cancel"),
                ("DELETE", f"/sessions/{job['session_id']}"),
            ]
            for method, path in calls:
                unknown = (
                    path.replace(job["job_id"], UUID)
                    .replace(job["session_id"], UUID)
                    .replace(delivery["id"], MSG)
                )
                foreign, missing = [
                    await client.request(method, each, headers=bob) for each in (path, unknown)
                ]
                assert foreign.status_code == 404, (method, path)
                assert {**foreign.json(), "request_id": ""} == {**missing.json(), "request_id": ""}
            for headers in (admin, alice):
                for method, path in calls[:-1]:
                    answer = await client.request(method, path, headers=headers)
                    assert answer.is_success, (method, path)
            assert (await client.delete(f"/sessions/{job['session_id']}", headers=admin)).status_code == 204

    async def test_a_failed_job_is_sent_again_by_its_owner_only(self, world: World) -> None:
        alice, bob = await world.key("alice"), await world.key("bob")
        async with world.client() as client:
            job = await submit(client, alice)
            await world.service.fail(job["job_id"])
            retry = f"/jobs/{job['job_id']}/retry"
            assert (await client.post(retry, headers=bob)).status_code == 404
            assert (await client.post(retry, headers=alice)).status_code == 202

    async def test_listings_hold_what_is_the_callers(self, world: World) -> None:
        alice, bob, admin = [
            await world.key("alice"),
            await world.key("bob"),
            await world.key("root", Scope.ADMIN),
        ]
        async with world.client() as client:
            made = {name: await submit(client, headers) for name, headers in (("a", alice), ("b", bob))}
            for headers, names in ((alice, "a"), (bob, "b"), (admin, "ba")):
                jobs = (await client.get("/jobs", headers=headers)).json()["data"]
                sessions = (await client.get("/sessions", headers=headers)).json()["data"]
                assert [job["job_id"] for job in jobs] == [made[name]["job_id"] for name in names]
                assert {each["session_id"] for each in sessions} == {made[n]["session_id"] for n in names}
            foreign = await client.get(f"/jobs?session_id={made['a']['session_id']}", headers=bob)
            assert foreign.json()["data"] == []

    async def test_two_keys_of_one_owner_share_everything(self, world: World) -> None:
        old, new = await world.key("alice"), await world.key("alice")
        async with world.client() as client:
            job = await submit(client, old)
            assert (await client.get(f"/status/{job['job_id']}", headers=new)).json()["owner"] == "alice"
            await submit(client, new, session_id=job["session_id"])

    async def test_another_owners_session_cannot_be_gone_on_with_or_replaced(
        self, world: World, pack: Callable[..., bytes]
    ) -> None:
        alice, bob = await world.key("alice"), await world.key("bob")
        async with world.client() as client:
            job = await submit(client, alice)
            body = {"prompt": "p", "session_id": job["session_id"]}
            answer = await client.post("/execute", json=body, headers=bob)
            assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
            upload = await client.put(
                f"/sessions/{job['session_id']}/archive",
                content=pack({"a": b"a"}),
                headers=bob | {"Content-Type": "application/zip"},
            )
            assert upload.status_code == 409
            again = await client.put(
                f"/sessions/{job['session_id']}/archive",
                content=pack({"a": b"a"}),
                headers=alice | {"Content-Type": "application/zip"},
            )
            mine, foreign = (a.json() | {"request_id": ""} for a in (again, upload))
            assert mine == foreign, "an own id that is taken is answered in the same words"
            assert (await client.get(f"/sessions/{job['session_id']}", headers=alice)).json()[
                "archive"
            ] is None

    async def test_an_upload_belongs_to_who_sent_it(self, world: World, pack: Callable[..., bytes]) -> None:
        alice, bob = await world.key("alice"), await world.key("bob")
        async with world.client() as client:
            path = f"/sessions/{UUID}"
            headers = alice | {"Content-Type": "application/zip"}
            answer = await client.put(f"{path}/archive", content=pack({"a": b"a"}), headers=headers)
            assert (answer.status_code, answer.json()["owner"]) == (201, "alice")
            assert (await client.get(path, headers=bob)).status_code == 404
            await submit(client, alice, session_id=UUID)

    async def test_the_same_idempotency_key_of_two_owners_is_two_jobs(self, world: World) -> None:
        alice, bob = await world.key("alice"), await world.key("bob")
        async with world.client() as client:
            one = await submit(client, alice | {"Idempotency-Key": "k"})
            two = await submit(client, bob | {"Idempotency-Key": "k"})
            assert one["job_id"] != two["job_id"]

    async def test_jobs_from_before_the_first_key_are_the_administrators(self, world: World) -> None:
        async with world.client() as client:
            job = await submit(client, {})
            alice, admin = await world.key("alice"), await world.key("root", Scope.ADMIN)
            path = f"/status/{job['job_id']}"
            assert (await client.get(path, headers=alice)).status_code == 404
            assert (await client.get(path, headers=admin)).status_code == 200
            await submit(client, admin, session_id=job["session_id"])


class TestLimits:
    async def refusal(self, client: Any, headers: dict[str, str], **body: Any) -> tuple[int, str, str | None]:
        answer = await client.post("/execute", json={"prompt": "p", **body}, headers=headers)
        return answer.status_code, answer.json().get("code", ""), answer.headers.get("retry-after")

    async def test_requests_a_minute(self, world: World) -> None:
        hasty = await world.key("alice", limits=KeyLimits(requests_per_minute=2))
        calm = await world.key("alice", limits=KeyLimits(requests_per_minute=2))
        async with world.client() as client:
            for _ in range(2):
                await submit(client, hasty)
            assert await self.refusal(client, hasty) == (429, "rate_limited", "30")
            assert (await client.get("/jobs", headers=hasty)).status_code == 200
            await submit(client, calm)
            world.clock.time += 30
            await submit(client, hasty)
            assert len((await client.get("/jobs", headers=hasty)).json()["data"]) == 4

    async def test_waiting_jobs_of_an_owner(self, world: World) -> None:
        limits = KeyLimits(max_queued=1)
        one, two = await world.key("alice", limits=limits), await world.key("alice", limits=limits)
        bob = await world.key("bob", limits=limits)
        async with world.client() as client:
            job = await submit(client, one | {"Idempotency-Key": "k"})
            assert await self.refusal(client, two) == (429, "too_many_jobs", "30")
            assert (await submit(client, one | {"Idempotency-Key": "k"}))["job_id"] == job["job_id"]
            await submit(client, bob)
            await world.service.run(job["job_id"])
            await submit(client, two)

    async def test_many_at_once_do_not_pass_the_limit(self, world: World) -> None:
        alice = await world.key("alice", limits=KeyLimits(max_queued=3))
        async with world.client() as client:
            answers = await asyncio.gather(
                *(client.post("/execute", json={"prompt": "p"}, headers=alice) for _ in range(10))
            )
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 7

    async def test_the_budget_of_a_day(self, world: World) -> None:
        alice = await world.key("alice", limits=KeyLimits(daily_budget_usd=0.3))
        async with world.client() as client:
            for _ in range(2):
                await world.service.run((await submit(client, alice))["job_id"])  # 0.25 dollars each
            status, code, wait = await self.refusal(client, alice)
            assert (status, code) == (429, "budget_exhausted")
            assert wait is not None
            assert (world.clock.now() + int(wait)) % 86400 < 1
            world.clock.time += int(wait)
            await submit(client, alice)

    async def test_models(self, world: World) -> None:
        alice = await world.key("alice", limits=KeyLimits(models=("haiku", "sonnet")))
        async with world.client() as client:
            assert (await self.refusal(client, alice, model="opus"))[:2] == (403, "model_not_allowed")
            named = await submit(client, alice, model="sonnet")
            unnamed = await submit(client, alice)
        store = world.service.parts.store
        models = [(await store.request(job["job_id"])).model for job in (named, unnamed)]
        assert models == ["sonnet", "haiku"]

    async def test_a_job_that_is_sent_again_waits_like_a_new_one(self, world: World) -> None:
        alice = await world.key("alice", limits=KeyLimits(max_queued=1))
        async with world.client() as client:
            job = await submit(client, alice)
            await world.service.start(job["job_id"])
            await world.service.finish(job["job_id"], failed(ErrorCode.MAX_TURNS, "It took all its turns."))
            await submit(client, alice)
            answer = await client.post(f"/jobs/{job['job_id']}/retry", headers=alice)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_jobs")
