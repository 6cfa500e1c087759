"""Real runs: the real Claude Code against the rehearsal API."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import Ending

pytestmark = pytest.mark.e2e

TIERS = pytest.mark.parametrize("tier", ["namespace", "none"])


@TIERS
async def test_a_conversation_goes_on_where_the_workspace_has_moved(
    stage: Any, tmp_path: Path, tier: str
) -> None:
    async with stage(tier) as it:
        first = await it.run("remember the heron\nrehearsal: write note.txt heron\nrehearsal: answer noted")
        assert (first.ending, first.result) == (Ending.DONE, "noted")
        assert (it.workspace.files / "note.txt").read_text() == "heron"
        assert [kind for kind, _ in it.events] == [
            "agent.started",
            "tool.started",
            "tool.finished",
            "agent.text",
            "agent.result",
            "run.traffic",
        ]
        [passed] = it.of("run.traffic")
        assert passed["gateway"]["asked"] >= 2
        assert passed["gateway"]["sent"] > passed["gateway"]["received"] > 0
        assert passed["egress"] == {"asked": 0, "sent": 0, "received": 0}
        it.move_to(tmp_path / "another-machine")
        second = await it.run("and now?\nrehearsal: recall")
    assert second.result is not None
    assert "remember the heron" in second.result
    assert it.transcript.parent == it.workspace.transcripts
    [result] = it.of("agent.result")
    assert result["cost_usd"] == second.cost_usd > 0
    assert result["session_cost_usd"] == pytest.approx(first.cost_usd + second.cost_usd), (
        "Claude Code counts the cost of the whole conversation"
    )
    assert second.usage.input_tokens < first.usage.input_tokens, "and the tokens of the run"
    assert not (it.workspace.root / "run").exists(), "the run's files, token included, are gone"


async def test_a_conversation_that_was_never_written_down_starts_anew(stage: Any) -> None:
    async with stage() as it:
        it.workspace.transcripts.mkdir(parents=True)
        (it.workspace.transcripts / f"{it.session_id}.jsonl").write_text('{"type":"queue-operation"}\n')
        outcome = await it.run("hello\nrehearsal: answer hi")
    assert (outcome.ending, outcome.result) == (Ending.DONE, "hi")


async def test_messages_of_many_megabytes_pass(stage: Any) -> None:
    async with stage() as it:
        (it.workspace.files / "big.txt").write_text("first\n" + ("x" * 99 + "\n") * 21_000)
        read = '{"file_path": "/workspace/big.txt", "limit": 1}'
        edit = '{"file_path": "/workspace/big.txt", "old_string": "first", "new_string": "FIRST"}'
        outcome = await it.run(
            f"edit\nrehearsal: tool Read {read}\nrehearsal: tool Edit {edit}\nrehearsal: big 1500000"
        )
    assert outcome.ending is Ending.DONE
    assert len(outcome.result or "") == 1_500_000
    assert (it.workspace.files / "big.txt").read_text().startswith("FIRST\n")
    (text,) = it.of("agent.text")
    assert len(text["text"]) < 70_000, "events are cut; the result is not"


async def test_the_prompt_is_data(stage: Any) -> None:
    async with stage() as it:
        (it.workspace.files / "secret.txt").write_text("CONTENT-OF-THE-FILE")
        prompt = "/cost of @secret.txt --version\nrehearsal: answer fine"
        outcome = await it.run(prompt)
    assert outcome.result == "fine"
    assert "/cost of @secret.txt --version" in it.api.text
    assert "CONTENT-OF-THE-FILE" not in it.api.text


async def test_hostile_settings_of_the_workspace_are_inert_and_its_claude_md_is_read(stage: Any) -> None:
    hostile = """{"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}, "hooks": {"SessionStart": [{"hooks":
        [{"type": "command", "command": "touch /workspace/hooked"}]}]}}"""
    async with stage() as it:
        for place in (it.workspace.files, it.workspace.home):
            (place / ".claude").mkdir()
            (place / ".claude" / "settings.json").write_text(hostile)
        (it.workspace.files / "CLAUDE.md").write_text("Always speak of herons.")
        outcome = await it.run(
            "hi\nrehearsal: bash true\nrehearsal: answer ok", append_system_prompt="And of owls."
        )
        system = str(it.api.bodies[-1]["system"])
    assert outcome.result == "ok"
    assert not (it.workspace.files / "hooked").exists()
    assert "Always speak of herons." in system
    assert "And of owls." in system
    assert "Claude Code" in system, "the text is added to Claude Code's own prompt"


async def test_settings_of_the_workspace_are_loaded_where_the_operator_says_so(stage: Any) -> None:
    hooks = """{"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": "touch /workspace/hooked"}]}]}}"""
    async with stage(setting_sources=("project",)) as it:
        (it.workspace.files / ".claude").mkdir()
        (it.workspace.files / ".claude" / "settings.json").write_text(hooks)
        await it.run("hi\nrehearsal: answer ok")
    assert (it.workspace.files / "hooked").exists()


async def test_old_transcripts_survive(stage: Any) -> None:
    """Claude Code cleans up a few seconds after its start, once a day: it would delete what is 30 days old."""
    cleaned = 'until [ -e "$CLAUDE_CONFIG_DIR/.last-cleanup" ]; do sleep 0.2; done'
    async with stage() as it:
        await it.run("remember\nrehearsal: answer ok")
        other = it.workspace.transcripts / "11111111-1111-4111-8111-111111111111.jsonl"
        other.write_text(it.transcript.read_text())
        old = time.time() - 40 * 86_400
        for path in (it.transcript, other):
            os.utime(path, (old, old))
        outcome = await it.run(f"again\nrehearsal: bash {cleaned}\nrehearsal: recall")
    assert "remember" in (outcome.result or "")
    assert other.exists()


async def test_named_tools_are_all_that_a_job_may_use(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run(
            "try\nrehearsal: write no.txt x\nrehearsal: answer ok", allowed_tools=("Read",)
        )
    assert outcome.ending is Ending.DONE
    assert not (it.workspace.files / "no.txt").exists()
    assert [finished["is_error"] for finished in it.of("tool.finished")] == [True]


async def test_structured_output(stage: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with stage() as it:
        outcome = await it.run('count\nrehearsal: structured {"n": 7}', output_schema=schema)
        missing = await it.run("count\nrehearsal: answer seven", output_schema=schema)
    assert (outcome.ending, outcome.structured_output) == (Ending.DONE, {"n": 7})
    assert missing.code is ErrorCode.STRUCTURED_OUTPUT_MISSING


async def test_too_many_turns(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run(
            "go\nrehearsal: bash true\nrehearsal: bash true\nrehearsal: answer x", max_turns=1
        )
    assert outcome.code is ErrorCode.MAX_TURNS


async def test_an_argument_too_large_for_the_system_is_told_from_a_broken_agent(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run("x", output_schema={"description": "x" * 200_000})
    assert outcome.code is ErrorCode.INVALID_REQUEST
