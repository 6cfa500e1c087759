"""Failures of the API, as a run reports them. The number of tries is cut down to one for time's sake."""

import time
from typing import Any

import pytest

from overnight.agent import processes
from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import Ending

pytestmark = pytest.mark.e2e


async def test_a_refused_key_fails_at_once(stage: Any) -> None:
    async with stage(agent_api_retries=10) as it:
        started = time.monotonic()
        outcome = await it.run("x\nrehearsal: error 401")
    assert outcome.code is ErrorCode.AUTHENTICATION
    assert time.monotonic() - started < 10, "Claude Code itself would try for three minutes"


async def test_no_key_at_all(stage: Any) -> None:
    async with stage(anthropic_api_key=None) as it:
        outcome = await it.run("x")
    assert outcome.code is ErrorCode.AUTHENTICATION
    assert it.api.bodies == []


async def test_an_overloaded_api(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run("x\nrehearsal: error 529")
        assert outcome.code is ErrorCode.OVERLOADED
        assert len(it.of("agent.api_retry")) == 1
        recovered = await it.run("x\nrehearsal: error 529 x1\nrehearsal: answer ok")
    assert recovered.result == "ok"


async def test_a_rate_limit_says_when_to_come_back(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run("x\nrehearsal: error 429 retry-after=3600")
    assert outcome.code is ErrorCode.RATE_LIMITED
    assert outcome.resume_at == pytest.approx(time.time() + 3600, abs=30)


async def test_an_api_that_cannot_be_reached(stage: Any) -> None:
    async with stage(anthropic_base_url="http://127.0.0.1:1") as it:
        outcome = await it.run("x")
    assert outcome.code is ErrorCode.API_UNREACHABLE


async def test_permanent_answers(stage: Any) -> None:
    expected = {
        400: ErrorCode.INVALID_REQUEST,
        403: ErrorCode.PERMISSION,
        404: ErrorCode.MODEL_NOT_FOUND,
    }
    async with stage() as it:
        found = {status: (await it.run(f"x\nrehearsal: error {status}")).code for status in expected}
    assert found == expected


async def test_a_cli_that_dies_is_a_crash_with_its_last_words(stage: Any) -> None:
    async with stage() as it:
        # Its parent is the CLI: the agent can kill the program that it runs in.
        outcome = await it.run("x\nrehearsal: bash kill -9 $PPID\nrehearsal: answer no")
        assert outcome.code is ErrorCode.AGENT_CRASHED
        assert "kept" in (outcome.message or "")
        again = await it.run("go on\nrehearsal: recall")
    assert "x" in (again.result or "")


DEEP = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nprint('there')\n"


@pytest.mark.parametrize("tier", ["namespace", "landlock"])
async def test_deep_directories_among_its_temporary_files_do_not_fail_a_run(stage: Any, tier: str) -> None:
    async with stage(tier) as it:
        (it.workspace.files / "deep.py").write_text(DEEP)
        outcome = await it.run(
            'x\nrehearsal: bash here=$PWD; cd "$TMPDIR" && python3 "$here/deep.py"\nrehearsal: answer ok'
        )
        assert (outcome.code, outcome.result) == (None, "ok")
        assert "there" in str(it.of("tool.finished"))
        assert not (it.workspace.root / "run").exists()


@pytest.mark.parametrize("where", ["tool.finished", "run.traffic"])
async def test_what_breaks_in_the_service_does_not_make_the_run_free_of_charge(
    stage: Any, where: str
) -> None:
    async with stage() as it:
        emit = it.emit

        def breaking(kind: str, fields: Any) -> None:
            emit(kind, fields)
            if kind == where:
                raise RuntimeError("a bug")

        it.emit = breaking
        outcome = await it.run("x\nrehearsal: bash true\nrehearsal: answer ok")
    assert outcome.code is ErrorCode.INTERNAL
    assert outcome.cost_usd > 0
    assert outcome.usage.output_tokens > 0


async def test_what_cannot_be_cleaned_up_does_not_take_the_outcome_along(stage: Any) -> None:
    async with stage() as it:
        emit, record = it.emit, it.workspace.root / processes.RECORD

        def spoiling(kind: str, fields: Any) -> None:
            emit(kind, fields)
            if kind == "agent.result":
                record.unlink()
                record.mkdir()

        it.emit = spoiling
        outcome = await it.start("x\nrehearsal: answer ok")
    assert (outcome.ending, outcome.result) == (Ending.DONE, "ok")
    assert outcome.cost_usd > 0
