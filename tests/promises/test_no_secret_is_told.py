"""Canary secrets are planted in the service and printed by the agent; nothing that the service tells holds one.

The agent cannot read the service's secrets. Here it knows them all the same, from its prompt, as it would if
isolation failed: what it prints must still not come out. The archive is the session's own and keeps what the
agent wrote; only its listing is looked at.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until
from tests.webhook_receiver import webhook_receiver

pytestmark = pytest.mark.e2e

LOADED = {
    "ANTHROPIC_API_KEY": "canary-api-key-7d1f0b3c59a2e846",
    "ANTHROPIC_AUTH_TOKEN": "canary-auth-token-55e0c4d2b91f",
    "OVERNIGHT_WEBHOOK_SECRET": "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbmE=",
}
SHAPED = {
    "anthropic": "sk-ant-api03-canaryCANARY0123456789canary",
    "github": "ghp_canary0123456789canary0123456789canary",
    "aws": "AKIACANARYCANARY0123",
    "jwt": "eyJjYW5hcnkiOjF9.eyJjYW5hcnkiOiJjYW5hcnkifQ.Y2FuYXJ5LXNpZ25hdHVyZQ",
}
CANARIES = (*LOADED.values(), *SHAPED.values())

Told = dict[str, str]
"""What was told, by where."""


def command_lines() -> Iterator[str]:
    """Of every process on this machine but this one, whose own are the test's."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (entry / "cmdline").read_bytes().decode(errors="replace")


def prompt() -> str:
    shown = " ".join((*LOADED.values(), *SHAPED.values()))
    return "\n".join(
        [
            "Print what you know.",
            f"rehearsal: write env.txt {shown}",
            "rehearsal: say I print the file now.",
            "rehearsal: bash cat env.txt; cat env.txt >&2; env",
            "rehearsal: bash mkfifo gate; echo waiting; cat gate",
            f"rehearsal: answer They are {shown}",
        ]
    )


async def everything_told(service: Any, job: dict[str, Any]) -> Told:
    job_id, session_id = job["job_id"], job["session_id"]
    told = {
        "events": json.dumps(await service.events(job_id)),
        "log": (service.data / "stderr.log").read_text(),
        "banner": "\n".join(service.banner),
        "service.json": (service.data / "service.json").read_text(),
    }
    sse = {"accept": "text/event-stream"}
    told["SSE"] = (await service.call("GET", f"/jobs/{job_id}/events", headers=sse)).text
    for path in (
        f"/status/{job_id}",
        "/jobs",
        f"/jobs/{job_id}/deliveries",
        "/sessions",
        f"/sessions/{session_id}",
        f"/sessions/{session_id}/files",
        "/openapi.json",
        "/docs",
        "/healthz",
        "/readyz",
        "/metrics",
    ):
        told[path] = (await service.call("GET", path)).text
    return told | await every_problem(service, session_id)


async def every_problem(service: Any, session_id: str) -> Told:
    """Requests that hold canaries wherever something can stand, all of them refused."""
    secret = LOADED["ANTHROPIC_API_KEY"]
    headers = {"authorization": f"Bearer {secret}", "idempotency-key": secret}
    answers = [
        await service.call("POST", "/execute", content=f'{{"prompt": "{secret}'.encode()),
        await service.call("POST", "/execute", json={"prompt": "x", secret: 1}, headers=headers),
        await service.call("POST", "/execute", json={"prompt": "x", "model": [secret]}),
        await service.call(
            "POST", "/execute", json={"prompt": "x", "callback_url": f"https://{secret}@a.b/"}
        ),
        await service.call("GET", f"/status/{secret}"),
        await service.call("GET", f"/{secret}"),
        await service.call("GET", "/jobs", params={"cursor": secret}),
        await service.call("GET", f"/sessions/{session_id}/files/{secret}"),
        await service.call("GET", "/healthz", headers={"host": secret}),
        await service.call("PUT", f"/sessions/{secret}/archive", content=b"PK" + secret.encode()),
    ]
    assert all(400 <= answer.status_code < 500 for answer in answers), [a.status_code for a in answers]
    return {f"problem {n}": answer.text + str(answer.headers) for n, answer in enumerate(answers)}


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_told(start: Any, form: str) -> None:
    service = await start(settings={"OVERNIGHT_LOG": form, **LOADED})
    async with webhook_receiver() as (url, got):
        job = await service.submit(prompt(), callback_url=url)
        gate = service.data / "runs" / f"{job['job_id']}.1" / "files" / "gate"
        await until(gate.exists)
        during = list(command_lines())
        await asyncio.to_thread(gate.write_text, "go\n")
        webhook = await asyncio.wait_for(got.get(), 60)
        done = await service.finished(job["job_id"])
    assert done["status"] == "completed", done
    told = await everything_told(service, job)
    told |= {"webhook": f"{webhook.headers}{webhook.body.decode()}", "command lines": "\n".join(during)}
    found = [(where, canary) for where, text in told.items() for canary in CANARIES if canary in text]
    assert found == []
    for where in ("events", "SSE", f"/status/{job['job_id']}", "webhook"):
        assert "[redacted:anthropic_api_key]" in told[where], where
        assert "[redacted:anthropic_key]" in told[where], where


async def test_neither_a_keys_webhook_secret_nor_the_token_of_the_run_is_told(start: Any) -> None:
    service = await start(settings={"OVERNIGHT_REDACT_SHAPES": "0"})
    made = await service.use_key("--owner", "alice")
    secret = made["webhook_secret"]
    lines = [
        f"rehearsal: bash echo {secret} | tee env.txt; printf %s {secret} | base64 -w0",
        'rehearsal: bash echo "token=$ANTHROPIC_API_KEY"; printf %s "$ANTHROPIC_API_KEY" | base64 -w0',
        f"rehearsal: answer It is {secret}",
    ]
    job = await service.submit("\n".join(["Tell.", *lines]))
    assert (await service.finished(job["job_id"]))["status"] == "completed"
    told = await everything_told(service, job)
    assert [
        where for where, text in told.items() if secret in text or secret.removeprefix("whsec_") in text
    ] == []
    assert "token=[redacted:run_token]" in told["events"]
    assert told["events"].count("[redacted:run_token]") == 2, "in base64 too"
    assert "[redacted:webhook_secret]" in told[f"/status/{job['job_id']}"]
