"""What the service takes of anybody: sizes, deadlines, and no more than it has room for."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.system import SystemClock
from overnight.ports import ArchiveTooLarge, Growth, StoredArchive

UUID = "01900000-0000-7000-8000-000000000000"


class TestRoom:
    async def test_the_whole_queue(self, service_with: Callable[..., Any]) -> None:
        service = service_with()
        service = service_with(limits=replace(service.parts.limits, max_queued=1))
        async with service.client() as client:
            answers = [await client.post("/execute", json={"prompt": "p"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 503]
        assert (answers[1].json()["code"], answers[1].headers["retry-after"]) == ("queue_full", "30")

    async def test_free_disk(self, service_with: Callable[..., Any], pack: Callable[..., bytes]) -> None:
        service = service_with(free_bytes=lambda: 99)
        service = service_with(
            limits=replace(service.parts.limits, min_free_bytes=100), free_bytes=lambda: 99
        )
        async with service.client() as client:
            answer = await client.post("/execute", json={"prompt": "p"})
            assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
            headers = {"Content-Type": "application/zip"}
            upload = await client.put(f"/sessions/{UUID}/archive", content=pack({"a": b"a"}), headers=headers)
            assert upload.status_code == 507
            assert (await client.get("/jobs")).json()["data"] == []

    async def test_a_disk_that_an_upload_would_fill(
        self, service_with: Callable[..., Any], pack: Callable[..., bytes]
    ) -> None:
        limits = replace(service_with().parts.limits, min_free_bytes=100)
        left = iter([100, 99])
        service = service_with(limits=limits, free_bytes=lambda: next(left))
        headers = {"Content-Type": "application/zip"}
        async with service.client() as client:
            upload = await client.put(f"/sessions/{UUID}/archive", content=pack({"a": b"a"}), headers=headers)
        assert (upload.status_code, upload.json()["code"]) == (507, "storage_full")
        assert service.left_in_scratch() == []


class SmallArchives(MemoryArchives):
    """A store with a limit of its own, as a project of a free plan has."""

    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        raise ArchiveTooLarge(100)


class TestSizes:
    async def test_an_upload_that_the_store_is_too_small_for(
        self, service_with: Callable[..., Any], pack: Callable[..., bytes]
    ) -> None:
        service = service_with(archives=SmallArchives(SystemClock()))
        headers = {"Content-Type": "application/zip"}
        async with service.client() as client:
            answer = await client.put(f"/sessions/{UUID}/archive", content=pack({"a": b"a"}), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert "no more than 100 bytes" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "many",
        [{f"x-{n}": "1" for n in range(120)}, {"x-long": "a" * 17_000}],
        ids=["many", "long"],
    )
    async def test_of_headers(self, client: Any, many: dict[str, str]) -> None:
        answer = await client.get("/healthz", headers=many)
        assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")

    async def test_of_the_target(self, client: Any) -> None:
        assert (await client.get("/jobs?cursor=" + "a" * 9000)).status_code == 431

    async def test_a_body_has_a_minute(self, service_with: Callable[..., Any]) -> None:
        service = service_with()
        service = service_with(limits=replace(service.parts.limits, body_seconds=0.05))

        async def never_ends() -> Any:
            yield b'{"prompt": '
            await asyncio.Event().wait()

        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/execute",
            "raw_path": b"/execute",
            "query_string": b"",
            "headers": [(b"host", b"overnight.test"), (b"content-type", b"application/json")],
        }
        pieces = never_ends()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": await anext(pieces), "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        await service.app(scope, receive, send)
        assert sent[0]["status"] == 408
        assert (b"connection", b"close") in sent[0]["headers"]
