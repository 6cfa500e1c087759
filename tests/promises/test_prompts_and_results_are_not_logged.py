"""Canary words stand in everything that a caller sends and an agent makes; none of them is in the log, at any level.

They look like no secret, so that it is not redaction that keeps them out.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.service import SERVE, Service, lines
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

LOUD = (sys.executable, str(Path(__file__).with_name("loud.py")))
SCHEMA = {
    "type": "object",
    "properties": {"found": {"type": "string", "description": "canary-of-the-schema"}},
    "required": ["found"],
}


def canaries(*places: str) -> dict[str, str]:
    return {place: f"canary-of-the-{place}" for place in places}


SENT = canaries("prompt", "system-prompt", "tool", "path", "query", "refused-body", "refused-query", "key")
TOLD = canaries("result", "structured", "words", "output", "complaint", "file", "content", "failure")
OTHERS = ("canary-of-the-schema", "canary-of-the-metadata", "canary-of-the-answer")


@contextlib.asynccontextmanager
async def receiver(answers: list[bytes]) -> AsyncIterator[str]:
    """Gives each webhook the next answer, the last one from then on, with a body of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        body = b"canary-of-the-answer"
        head = b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (status, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield f"{url}/{SENT['path']}?room={SENT['query']}"


@contextlib.asynccontextmanager
async def loud_service(place: Path, form: str) -> AsyncIterator[Service]:
    service = Service(place, SERVE, {"OVERNIGHT_LOG": form})
    service.program = LOUD
    await service.start()
    try:
        yield service
    finally:
        assert service.process is not None
        if service.process.returncode is None:
            await service.kill()


async def all_kinds_of_jobs(service: Service, url: str) -> list[dict[str, Any]]:
    """One that answers, one with structured output, one that fails, with a webhook that is refused first."""
    commands = (
        f"say {TOLD['words']}",
        f"bash echo {TOLD['output']}; echo {TOLD['complaint']} >&2; false",
        f"write {TOLD['file']}.txt {TOLD['content']}",
    )
    given = {
        "append_system_prompt": SENT["system-prompt"],
        "disallowed_tools": [f"Bash({SENT['tool']})"],
        "metadata": {"canary-of-the-metadata": "canary-of-the-metadata"},
        "callback_url": url,
    }
    words = SENT["prompt"]
    structured = json.dumps({"found": TOLD["structured"]})
    jobs = [
        await service.submit(lines(*commands, f"answer {TOLD['result']}", words=words), **given),
        await service.submit(lines(f"structured {structured}", words=words), output_schema=SCHEMA, **given),
        await service.submit(lines("error 400", f"answer {TOLD['failure']}", words=words), **given),
    ]
    return [await service.finished(job["job_id"]) for job in jobs]


async def ask_for_trouble(service: Service) -> None:
    key = {"idempotency-key": SENT["key"]}
    body = SENT["refused-body"]
    answers = [
        await service.call("POST", "/execute", json={"prompt": body, "unknown": body}, headers=key),
        await service.call("POST", "/execute", content=f'{{"prompt": "{body}'.encode(), headers=key),
        await service.call("POST", "/execute", json={"prompt": body, "callback_url": f"ftp://{body}/"}),
        await service.call("GET", "/jobs", params={"cursor": SENT["refused-query"]}),
        await service.call("GET", f"/status/{SENT['refused-query']}"),
    ]
    assert all(400 <= answer.status_code < 500 for answer in answers), [a.status_code for a in answers]


async def all_delivered(service: Service, jobs: list[dict[str, Any]]) -> bool | None:
    for job in jobs:
        answer = (await service.call("GET", f"/jobs/{job['job_id']}/deliveries")).json()
        if [delivery["status"] for delivery in answer["data"]] != ["delivered"]:
            return None
    return True


@pytest.mark.parametrize("form", ["text", "json"])
async def test_the_log_holds_no_words_of_callers_and_agents(tmp_path: Path, form: str) -> None:
    async with loud_service(tmp_path, form) as service, receiver([b"500 No", b"204 Yes"]) as url:
        jobs = await all_kinds_of_jobs(service, url)
        await ask_for_trouble(service)
        await eventually(lambda: all_delivered(service, jobs), seconds=90)
        assert await service.terminate() == 0
        assert service.process is not None
        assert service.process.stdout is not None
        said = "\n".join(service.banner) + (await service.process.stdout.read()).decode()
    assert [job["status"] for job in jobs] == ["completed", "completed", "failed"]
    assert (jobs[0]["result"], jobs[1]["structured_output"]) == (
        TOLD["result"],
        {"found": TOLD["structured"]},
    )
    log = (service.data / "stderr.log").read_text()
    assert jobs[0]["job_id"] in log, "it is the log of these jobs"
    assert "debug" in log.lower(), "and all of it"
    found = [word for word in (*SENT.values(), *TOLD.values(), *OTHERS) if word in log + said]
    assert found == []
