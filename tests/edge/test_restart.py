"""Accepted means durable: an edge that is stopped and started again, and has lost its queue meanwhile."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from overnight.adapters.cloudflare.queue import QueueAddress, cloudflare_queue
from overnight.domain.keys import RANDOM_BYTES, new_key
from overnight.ports import Clock


async def test_a_job_outlives_the_edge_and_its_queue(
    start_edge: Callable[..., AbstractContextManager[dict[str, str]]], tmp_path: Path, clock: Clock
) -> None:
    """The queue of a local edge is in memory, so this is also the loss of every bell: the alarm rings again."""
    key = new_key(bytes(range(RANDOM_BYTES)))
    options = ("--state", str(tmp_path / "state"), "--tend", "3")
    authorization = {"Authorization": f"Bearer {key}"}
    with start_edge(tmp_path, *options, key=key) as settings:
        async with httpx.AsyncClient(
            base_url=settings["OVERNIGHT_URL"], headers=authorization, trust_env=False, timeout=60
        ) as edge:
            job_id = (await edge.post("/execute", json={"prompt": "p"})).json()["job_id"]

    with start_edge(tmp_path, *options, key=key) as settings:
        address = QueueAddress(account_id="offline", queue_id=settings["OVERNIGHT_CLOUDFLARE_QUEUE_ID"])
        url, token = settings["OVERNIGHT_CLOUDFLARE_API_URL"], settings["CLOUDFLARE_API_TOKEN"]
        async with (
            httpx.AsyncClient(
                base_url=settings["OVERNIGHT_URL"], headers=authorization, trust_env=False, timeout=60
            ) as edge,
            cloudflare_queue(url, token, address, clock) as queue,
        ):
            assert (await edge.get(f"/status/{job_id}")).json()["status"] == "queued"
            (bell,) = await queue.receive(limit=1, visibility_seconds=30, wait_seconds=30)
    assert bell.job_id == job_id
