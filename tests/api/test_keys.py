"""Who gets in: keys and scopes at the border."""

from functools import partial
from typing import Any

import pytest
from tests.api.keyed import MSG, UNKNOWN, UUID, World

from overnight.api.operations import OPERATIONS
from overnight.domain.keys import Scope, revoke


def path_of(template: str) -> str:
    plain = template.replace("{path:path}", "{path}")
    return plain.format(job_id=UUID, session_id=UUID, delivery_id=MSG, path="a")


CLOSED = [operation for operation in OPERATIONS if operation.needs is not None]


class TestTheDoor:
    async def test_it_is_open_until_the_first_key_is_made(self, world: World) -> None:
        async with world.client() as client:
            assert (await client.get("/jobs")).status_code == 200
            assert (
                await client.get("/jobs", headers={"Authorization": f"Bearer {UNKNOWN}"})
            ).status_code == 200
            await world.key("alice")
            assert (await client.get("/jobs")).status_code == 401

    async def test_a_revoked_key_keeps_it_closed(self, world: World) -> None:
        headers = await world.key("alice")
        [key] = await world.store.keys()
        async with world.client() as client:
            assert (await client.get("/jobs", headers=headers)).status_code == 200
            await world.store.change(key.key_id, partial(revoke, now=world.clock.now()))
            world.clock.time += 1.0
            assert (await client.get("/jobs", headers=headers)).status_code == 401
            assert (await client.get("/jobs")).status_code == 401

    @pytest.mark.parametrize("operation", CLOSED, ids=lambda operation: operation.id)
    async def test_every_call_behind_it_needs_a_key(self, world: World, operation: Any) -> None:
        await world.key("alice")
        async with world.client() as client:
            for headers in ({}, {"Authorization": f"Bearer {UNKNOWN}"}):
                answer = await client.request(operation.method, path_of(operation.path), headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
                assert answer.headers["www-authenticate"] == 'Bearer realm="overnight"'

    async def test_only_health_and_documents_are_before_it(self, world: World) -> None:
        await world.key("alice")
        assert {operation.id for operation in OPERATIONS} - {each.id for each in CLOSED} == {
            "healthz",
            "readyz",
        }
        async with world.client() as client:
            for path in ("/healthz", "/readyz", "/docs", "/docs/problems", "/openapi.json"):
                assert (await client.get(path)).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": b"Bearer \xff\xfe"},
            {"Authorization": "Bearer ovn_ключ".encode()},
            {"X-API-Key": b"\x80" * 61},
            {"Authorization": b"Bearer "},
            {"Authorization": b"Basic b3ZuXw=="},
            {"Authorization": b"Bearer " + b"a" * 10_000},
            {"X-API-Key": b""},
        ],
        ids=["bytes", "utf-8", "x-api-key", "empty", "basic", "long", "empty x-api-key"],
    )
    async def test_any_bytes_are_only_a_wrong_key(self, world: World, headers: Any) -> None:
        await world.key("alice")
        async with world.client() as client:
            answer = await client.get("/jobs", headers=headers)
            assert answer.status_code == 401

    async def test_a_key_may_come_in_either_header_but_not_two_keys_at_once(self, world: World) -> None:
        bearer = await world.key("alice")
        text = bearer["Authorization"].removeprefix("Bearer ")
        async with world.client() as client:
            for headers, status in [
                ({"X-API-Key": text}, 200),
                ({"Authorization": f"bearer {text}"}, 200),
                ({"X-API-Key": text, **bearer}, 200),
                ({"X-API-Key": UNKNOWN, **bearer}, 401),
            ]:
                assert (await client.get("/jobs", headers=headers)).status_code == status
            assert (await client.get(f"/jobs?api_key={text}")).status_code == 401

    async def test_a_key_expires(self, world: World) -> None:
        headers = await world.key("alice", expires_at=world.clock.now() + 10)
        async with world.client() as client:
            assert (await client.get("/jobs", headers=headers)).status_code == 200
            world.clock.time += 10
            assert (await client.get("/jobs", headers=headers)).status_code == 401

    async def test_its_use_is_noted_and_a_full_disk_locks_nobody_out(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        headers = await world.key("alice")
        async with world.client() as client:
            await client.get("/jobs", headers=headers)
            [key] = await world.store.keys()
            assert key.last_used_at == world.clock.now()

            world.store.full = True
            world.clock.time += 3600
            assert (await client.get("/jobs", headers=headers)).status_code == 200
            assert "ovn_" not in caplog.text


class TestScopes:
    @pytest.mark.parametrize("operation", CLOSED, ids=lambda operation: operation.id)
    async def test_a_call_needs_its_scope_or_admin(self, world: World, operation: Any) -> None:
        other = Scope.READ if operation.needs is Scope.SUBMIT else Scope.SUBMIT
        async with world.client() as client:

            async def code(*scopes: Scope) -> Any:
                headers = await world.key("alice", *scopes)
                answer = await client.request(operation.method, path_of(operation.path), headers=headers)
                return answer.json().get("code") if "json" in answer.headers["content-type"] else None

            assert await code(other) == "forbidden"
            assert await code(operation.needs) != "forbidden"
            assert await code(Scope.ADMIN) != "forbidden"
