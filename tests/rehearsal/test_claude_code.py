"""The rehearsal API under the real Claude Code."""

import asyncio
import base64
import json
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    RateLimitEvent,
    ResultMessage,
    SystemMessage,
    ToolUseBlock,
)
from tests.waiting import until

from overnight.domain.prompts import continuation

pytestmark = pytest.mark.e2e


@dataclass
class ClaudeCode:
    """One session of the real CLI, in a directory of its own."""

    base_url: str
    home: Path
    token: dict[str, str] = field(default_factory=lambda: {"ANTHROPIC_API_KEY": "rehearsal"})
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    messages: list[Message] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        return self.home / "workspace"

    def options(self, **more: Any) -> ClaudeAgentOptions:
        self.workspace.mkdir(exist_ok=True)
        known = any(self.home.glob(f"config/projects/*/{self.session_id}.jsonl"))
        session: dict[str, Any] = {"resume": self.session_id} if known else {"session_id": self.session_id}
        environment = {
            "ANTHROPIC_BASE_URL": self.base_url,
            "CLAUDE_CONFIG_DIR": str(self.home / "config"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_MAX_RETRIES": "2",
            "IS_SANDBOX": "1",
        }
        return ClaudeAgentOptions(
            cwd=self.workspace,
            env=environment | self.token,
            permission_mode="bypassPermissions",
            setting_sources=[],
            system_prompt={"type": "preset", "preset": "claude_code"},
            verbatim_prompts=True,
            **session,
            **more,
        )

    async def run(self, prompt: str, **more: Any) -> ResultMessage:
        async with ClaudeSDKClient(self.options(**more)) as client:
            await client.query(prompt)
            self.messages = [message async for message in client.receive_response()]
        result = self.messages[-1]
        assert isinstance(result, ResultMessage)
        return result

    async def interrupt_in_first_tool(self, prompt: str, started: Callable[[], bool]) -> None:
        async with ClaudeSDKClient(self.options()) as client:
            await client.query(prompt)
            await until(started)
            await client.interrupt()
            async for _ in client.receive_response():
                pass


def kinds(messages: list[Message], subtype: str) -> list[SystemMessage]:
    return [m for m in messages if isinstance(m, SystemMessage) and m.subtype == subtype]


@pytest.fixture
def claude(base_url: str, tmp_path: Path) -> ClaudeCode:
    return ClaudeCode(base_url, tmp_path)


async def test_steps_really_run(claude: ClaudeCode) -> None:
    result = await claude.run(
        "rehearsal: say here goes\nrehearsal: bash echo out > made.txt\n"
        "rehearsal: write sub/file.txt one\\ntwo\nrehearsal: answer all done"
    )
    assert (result.is_error, result.result, result.num_turns) == (False, "all done", 3)
    assert (claude.workspace / "made.txt").read_text() == "out\n"
    assert (claude.workspace / "sub/file.txt").read_text() == "one\ntwo"
    tools = [
        block.name
        for message in claude.messages
        if isinstance(message, AssistantMessage)
        for block in message.content
        if isinstance(block, ToolUseBlock)
    ]
    assert tools == ["Bash", "Write"]


async def test_a_resumed_conversation_is_remembered(claude: ClaudeCode) -> None:
    await claude.run("My first wish\nrehearsal: answer a")
    await claude.run("My second wish\nrehearsal: bash true")
    result = await claude.run("rehearsal: recall")
    assert result.result == "My first wish\nMy second wish"


async def test_an_overloaded_api_recovers_and_usage_is_billed(claude: ClaudeCode) -> None:
    result = await claude.run("rehearsal: error 529 x1\nrehearsal: usage 1000000 0\nrehearsal: answer there")
    assert (result.is_error, result.result) == (False, "there")
    assert [retry.data["error_status"] for retry in kinds(claude.messages, "api_retry")] == [529]
    assert result.usage
    assert result.usage["input_tokens"] == 1_000_000
    assert result.total_cost_usd


async def test_a_dropped_stream_recovers(claude: ClaudeCode) -> None:
    result = await claude.run("rehearsal: drop x1\nrehearsal: bash echo once >> log\nrehearsal: answer there")
    assert result.result == "there"
    assert (claude.workspace / "log").read_text() == "once\n"


async def test_structured_output_is_met(claude: ClaudeCode) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    result = await claude.run(
        'rehearsal: structured {"a": 3}', output_format={"type": "json_schema", "schema": schema}
    )
    assert (result.is_error, result.structured_output) == (False, {"a": 3})


async def test_a_newcomers_own_words_twice(claude: ClaudeCode) -> None:
    first = await claude.run("Write me a web shop")
    assert '"Write me a web shop"' in (first.result or "")
    assert "2 3 5 7 11 13 17 19 23 29" in (first.result or "")
    second = await claude.run("Add payments")
    assert '"Write me a web shop"' in (second.result or "")
    assert "hello.py is right: 20 primes checked" in (second.result or "")
    assert sorted(path.name for path in claude.workspace.iterdir()) == ["hello.py", "hello_test.py"]


async def test_an_interrupted_script_goes_on_where_it_stopped(claude: ClaudeCode) -> None:
    log, gate = claude.workspace / "log", claude.workspace / "gate"
    task = (
        "rehearsal: bash echo one >> log\n"
        "rehearsal: bash echo two >> log; test -e gate || tail -f /dev/null\n"
        "rehearsal: bash echo three >> log"
    )
    await claude.interrupt_in_first_tool(task, lambda: log.exists() and "two" in log.read_text())
    gate.touch()
    result = await claude.run(continuation(task, "the worker was lost"))
    assert result.result == "Rehearsal: ran 3 steps."
    assert log.read_text().split() == ["one", "two", "two", "three"]


def gateway_token() -> str:
    """Claude Code reads the limits of a gateway, which it knows by the audience of its token (a JWT)."""
    parts = [{"alg": "none"}, {"aud": "claude-gateway"}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "unsigned"])


async def test_a_rate_limit_reports_when_it_resets(claude: ClaudeCode) -> None:
    claude.token = {"ANTHROPIC_AUTH_TOKEN": gateway_token()}
    result = await claude.run("rehearsal: error 429 retry-after=3600 reset=3600")
    assert (result.is_error, result.api_error_status) == (True, 429)
    [event] = [message for message in claude.messages if isinstance(message, RateLimitEvent)]
    assert event.rate_limit_info.status == "rejected"
    assert event.rate_limit_info.resets_at == 1_800_003_600


async def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "overnight.rehearsal", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.head(line.split()[3])).status_code == 200
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
