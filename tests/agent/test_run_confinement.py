"""What a run can see, and that nothing of it is left, whatever ends it."""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from overnight.agent import processes
from overnight.domain.outcome import Ending

pytestmark = pytest.mark.e2e

TIERS = pytest.mark.parametrize("tier", ["namespace", "landlock", "none"])

# Its environment, and that of every process that it can see: its parents are among them.
LOOK_AROUND = (
    r"env; for p in /proc/[0-9]*; do tr '\0' '\n' <$p/environ; tr '\0' ' ' <$p/cmdline; done 2>/dev/null"
)
HANG = "go\nrehearsal: say working\nrehearsal: bash tail -f /dev/null\nrehearsal: answer never"


def output_of(it: Any) -> str:
    return "\n".join(str(finished["content"]) for finished in it.of("tool.finished"))


async def test_the_agent_sees_no_secret_of_the_service(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "canary-in-the-environment")
    async with stage() as it:
        await it.run(f"look\nrehearsal: bash {LOOK_AROUND}", append_system_prompt="APPENDED-TEXT")
        seen = output_of(it)
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1" in seen
    assert "canary-in-the-environment" not in seen
    assert "sk-ant-the-real-key" not in seen
    assert "sk-ant-the-real-key" not in it.transcript.read_text()
    assert "--append-system-prompt-file" in seen
    assert "APPENDED-TEXT" not in seen, "what could be private or large is no argument"
    assert it.api.headers[-1][b"x-api-key"] == b"sk-ant-the-real-key"


async def test_without_isolation_the_environment_is_still_empty(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "canary-in-the-environment")
    async with stage("none") as it:
        await it.run("look\nrehearsal: bash env; tr '\\0' '\\n' </proc/$PPID/environ")
        seen = output_of(it)
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1" in seen
    assert "canary-in-the-environment" not in seen
    assert "sk-ant-the-real-key" not in seen


async def test_nothing_outside_of_the_workspace_can_be_read_or_written(stage: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("OUTSIDE")
    async with stage() as it:
        (it.workspace.files / "link").symlink_to(outside)
        script = f"cat {outside} link /etc/shadow; ls {it.workspace.root}; touch /etc/x /usr/x /opt/x /x; id -u; ls /"
        read = json.dumps({"file_path": str(outside)})
        write = json.dumps({"file_path": str(tmp_path / "made.txt"), "content": "x"})
        await it.run(
            f"x\nrehearsal: bash {script}\nrehearsal: tool Read {read}\nrehearsal: tool Write {write}"
        )
        seen = output_of(it)
    assert "OUTSIDE" not in seen
    assert "root:" not in seen
    user = it.workspace.owner[0] if it.workspace.owner else 1000
    assert f"\n{user}\n" in seen
    assert seen.count("Read-only file system") == 4
    assert not (tmp_path / "made.txt").exists()
    assert it.of("tool.finished")[1]["is_error"], "the Read tool is kept in as well as Bash"


async def test_the_operator_can_open_more_directories_for_reading(stage: Any, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "tool").write_text("a tool")
    async with stage(sandbox_readable=(tools,)) as it:
        await it.run(f"x\nrehearsal: bash cat {tools}/tool; touch {tools}/x; python3 -c 'print(6 * 7)'")
        seen = output_of(it)
    assert "a tool" in seen
    assert "Read-only file system" in seen
    assert "42" in seen, "there is a python3, wherever that of the service lies"


@TIERS
async def test_a_daemon_does_not_outlive_a_good_run(stage: Any, tier: str) -> None:
    daemon = f"sleep 600.{secrets.randbelow(10**12)}"
    script = (
        f"(setsid nohup {daemon} >/dev/null 2>&1 &); until pgrep -fx '{daemon}'; do :; done; echo it runs"
    )
    async with stage(tier) as it:
        outcome = await it.run(f"x\nrehearsal: bash {script}\nrehearsal: answer left it running")
        assert outcome.result == "left it running"
        assert "it runs" in output_of(it)


async def test_a_background_command_does_not_keep_the_run_open(stage: Any) -> None:
    """By default both of these go on in the background, and the run with them."""
    wished = json.dumps({"command": "tail -f /dev/null", "run_in_background": True, "timeout": 1000})
    overtime = json.dumps({"command": "tail -f /dev/null", "timeout": 1000})
    async with stage() as it:
        outcome = await it.run(
            f"x\nrehearsal: tool Bash {wished}\nrehearsal: tool Bash {overtime}\nrehearsal: answer done"
        )
    assert outcome.result == "done"
    assert [finished["is_error"] for finished in it.of("tool.finished")] == [True, True]
    assert "Exit code 143" in output_of(it), "it was killed at its timeout"
    assert len(it.of("agent.result")) == 1


@TIERS
async def test_a_run_is_stopped_in_mid_tool_and_goes_on_later(stage: Any, tier: str) -> None:
    async with stage(tier) as it:
        running = it.start(HANG)
        await it.seen("tool.started")
        started = time.monotonic()
        it.stop.set()
        outcome = await running
        assert outcome.ending is Ending.INTERRUPTED
        assert time.monotonic() - started < 5
        assert outcome.cost_usd, "its last word says what it cost"
        assert outcome.usage.output_tokens > 0
        assert it.survivors() == []
        again = await it.run("go on\nrehearsal: recall")
    assert "go" in (again.result or "")


async def test_a_stop_before_the_start_starts_nothing(stage: Any) -> None:
    async with stage() as it:
        running = it.start(HANG)
        it.stop.set()
        assert (await running).ending is Ending.INTERRUPTED
    assert it.api.bodies == []


async def test_a_stop_while_the_api_is_silent(stage: Any) -> None:
    async with stage() as it:
        running = it.start("x\nrehearsal: delay 600\nrehearsal: answer never")
        await it.seen("agent.started")
        it.stop.set()
        async with asyncio.timeout(10):
            assert (await running).ending is Ending.INTERRUPTED
        assert it.survivors() == []


@TIERS
async def test_a_frozen_cli_is_ended(stage: Any, tier: str) -> None:
    async with stage(tier, stop_grace_seconds=0.5) as it:
        running = it.start(HANG)
        await it.seen("tool.started")
        for process in processes.find(it.mark):
            os.kill(process.pid, signal.SIGSTOP)
        it.stop.set()
        async with asyncio.timeout(10):
            outcome = await running
        assert outcome.ending is Ending.INTERRUPTED
        assert outcome.usage.output_tokens > 0, "counted from its messages"
        assert it.survivors() == []


@TIERS
async def test_cancelling_the_call_kills_the_run(stage: Any, tier: str) -> None:
    async with stage(tier) as it:
        running = it.start(HANG)
        await it.seen("tool.started")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert it.survivors() == []


WORKER = """
import asyncio, secrets, sys, time
from pathlib import Path
from overnight.agent.run import claude_agent
from overnight.domain.job import JobRequest
from overnight.ports import RunOrder, Workspace
from overnight.settings import Settings

class Machine:
    def now(self): return time.time()
    def token(self): return secrets.token_urlsafe(32)
    def is_set(self): return False
    async def wait(self): await asyncio.Event().wait()

async def main(tier, url, root):
    settings = Settings(anthropic_api_key="k", anthropic_base_url=url, data=root.parent / "other", isolation=tier)
    workspace = Workspace(root=root, files=root / "files", home=root / "home", transcripts=root / "home/.c/projects/s")
    prompt = "x\\nrehearsal: bash (setsid nohup tail -f /dev/null >/dev/null 2>&1 &) ; tail -f /dev/null"
    order = RunOrder(job_id="j", attempt=1, session_id="11111111-1111-4111-8111-111111111111", prompt=prompt,
                     request=JobRequest(prompt=prompt), workspace=workspace)
    async with claude_agent(settings, clock=Machine(), entropy=Machine()) as agent:
        await agent.run(order, emit=lambda kind, _: print(kind, flush=True), stop=Machine())

asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
"""


@TIERS
async def test_a_killed_worker_leaves_nothing_that_cannot_be_reaped(stage: Any, tier: str) -> None:
    async with stage(tier) as it:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WORKER,
            tier,
            it.agent.settings.anthropic_base_url,
            str(it.workspace.root),
            stdout=asyncio.subprocess.PIPE,
        )
        assert worker.stdout is not None
        async with asyncio.timeout(30):
            while b"tool.started" not in await worker.stdout.readline():
                assert not worker.stdout.at_eof()
        await until(lambda: len(_tails(it)) == 2)
        worker.kill()
        await worker.communicate()
        if tier == "namespace":
            await until(lambda: it.survivors() == [], seconds=10)
        await processes.reap(it.workspace.root)
        assert it.survivors() == []
        assert it.mark is None


def _tails(it: Any) -> list[int]:
    return [p.pid for p in it.survivors() if _command(p.pid) == "tail"]


def _command(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None  # It has ended since it was listed.
