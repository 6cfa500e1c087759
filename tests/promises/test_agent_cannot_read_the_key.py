"""The real key is nowhere that the agent, or whoever gets its session, can look; the token it has instead is
worth nothing afterwards."""

import asyncio
import io
import os
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.waiting import eventually

from overnight.agent import processes
from overnight.domain.outcome import Ending

pytestmark = pytest.mark.e2e

KEY = "sk-ant-canary-of-the-real-key"
TIERS = pytest.mark.parametrize("tier", ["namespace", "none"])

# Its environment, that of every process that it can see and their arguments, and every file it may read of its own.
LOOK = (
    r"env; for p in /proc/[0-9]*; do tr '\0' '\n' <$p/environ; tr '\0' ' ' <$p/cmdline; done 2>/dev/null; "
    'grep -rahs "sk-ant-canary" "$HOME" . "$TMPDIR" /run/overnight 2>/dev/null; echo looked'
)
ASK = (
    'curl -s -o /dev/null -D - -H "x-api-key: $ANTHROPIC_API_KEY" "$ANTHROPIC_BASE_URL/v1/models"; '
    'curl -s -H "x-api-key: $ANTHROPIC_API_KEY" "$ANTHROPIC_BASE_URL/v1/models"'
)
KEEP = 'printf %s "$ANTHROPIC_API_KEY" >kept; echo "gateway=$ANTHROPIC_BASE_URL"'
"""In a file, because events do not show it."""


def everything_in(root: Path) -> bytes:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return b"\0".join(path.read_bytes() for path in files)


@TIERS
async def test_it_is_nowhere_the_agent_can_look(stage: Any, tier: str) -> None:
    """In `none` it can read what the service can, but the service keeps the key in no file and no environment."""
    async with stage(tier, anthropic_api_key=KEY) as it:
        outcome = await it.run(f"look\nrehearsal: bash {LOOK}\nrehearsal: bash {ASK}\nrehearsal: answer ok")
        said = str(it.events)
        assert outcome.result == "ok"
        assert "looked" in said
        assert "claude-opus" in said, "its token did open the gateway"
        assert it.api.headers[-1][b"x-api-key"] == KEY.encode()
        assert KEY not in said
        assert KEY.encode() not in everything_in(it.workspace.root)
        assert KEY.encode() not in everything_in(it.agent.settings.data)


async def test_its_token_is_dead_after_the_run(stage: Any) -> None:
    async with stage(anthropic_api_key=KEY) as it:
        await it.run(f"keep\nrehearsal: bash {KEEP}\nrehearsal: answer ok")
        kept = await asyncio.to_thread((it.workspace.files / "kept").read_text)
        assert re.fullmatch(r"[\w-]{43}", kept)
        assert kept not in str(it.events)
        again = f'curl -s -o /dev/null -w "status=%{{http_code}}" -H "x-api-key: {kept}" $ANTHROPIC_BASE_URL/v1/models'
        await it.run(f"again\nrehearsal: bash {again}\nrehearsal: answer ok")
    assert "status=401" in str(it.of("tool.finished"))


async def test_it_is_in_nothing_that_leaves_the_service(start: Any, tmp_path: Path) -> None:
    async def told(service: Any, job: dict[str, Any]) -> bytes:
        session = job["session_id"]
        pages = [f"/status/{job['job_id']}", f"/jobs/{job['job_id']}/events", f"/sessions/{session}", "/jobs"]
        archive = (await service.call("GET", f"/sessions/{session}/archive")).content
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            unpacked = [files.read(name) for name in files.namelist()]
        return b"\0".join([*[(await service.call("GET", page)).content for page in pages], *unpacked])

    service = await start(settings={"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"})
    job = await service.submit(f"look\nrehearsal: bash {LOOK}\nrehearsal: answer ok")
    done = await service.finished(job["job_id"])
    assert done["status"] == "completed"
    everything = await told(service, job)
    assert b"looked" in everything
    assert KEY.encode() not in everything
    assert KEY.encode() not in everything_in(service.data)


async def test_its_token_is_dead_as_soon_as_the_run_is_to_stop(stage: Any) -> None:
    """A lost lease is one of the reasons. The CLI is frozen, so that the run itself cannot end yet."""
    async with stage("none", stop_grace_seconds=30.0) as it, httpx.AsyncClient(trust_env=False) as client:
        running = it.start(
            f"x\nrehearsal: bash {KEEP}\nrehearsal: bash tail -f /dev/null\nrehearsal: answer no"
        )
        told = re.search(r"gateway=(http://[\d.:]+)", str(await it.seen("tool.finished")))
        assert told is not None
        token, url = await asyncio.to_thread((it.workspace.files / "kept").read_text), told[1]

        async def status() -> int:
            return (await client.get(f"{url}/v1/models", headers={"x-api-key": token})).status_code

        async def dead() -> bool | None:
            return await status() == 401 or None

        assert await status() == 200
        frozen = processes.find(it.mark)
        for process in frozen:
            os.kill(process.pid, signal.SIGSTOP)
        it.stop.set()
        await eventually(dead, seconds=10)
        assert not running.done()
        for process in frozen:
            os.kill(process.pid, signal.SIGCONT)
        assert (await running).ending is Ending.INTERRUPTED
