"""The recipe, as options."""

from pathlib import Path
from typing import Any

import pytest

from overnight.agent.environment import View
from overnight.agent.options import has_conversation, options_for, set_aside, write_system_prompt
from overnight.domain.job import JobRequest
from overnight.ports import RunOrder, Workspace
from overnight.settings import Settings

SESSION = "11111111-1111-4111-8111-111111111111"
VIEW = View(
    files=Path("/workspace"),
    home=Path("/h"),
    config=Path("/h/.c"),
    temporary=Path("/t"),
    given=Path("/given"),
)


def order(workspace: Workspace, **request: Any) -> RunOrder:
    return RunOrder(
        job_id="j",
        attempt=1,
        session_id=SESSION,
        prompt="p",
        request=JobRequest(prompt="p", **request),
        workspace=workspace,
    )


def settings(**given: Any) -> Settings:
    return Settings(**given)


def options(workspace: Workspace, *, resume: bool = False, append: bool = False, **request: Any) -> Any:
    return options_for(
        order(workspace, **request),
        settings(model="of-the-operator"),
        launcher=Path("/launch"),
        view=VIEW,
        resume=resume,
        append=append,
        stderr=print,
    )


def test_a_conversation_is_found_in_any_folder_and_set_aside_if_it_is_none(workspace: Workspace) -> None:
    assert not has_conversation(workspace, SESSION)
    other = workspace.transcripts.parent / "of-another-machine"
    other.mkdir(parents=True)
    (other / f"{SESSION}.jsonl").touch()
    assert has_conversation(workspace, SESSION)
    set_aside(workspace, SESSION)
    assert not has_conversation(workspace, SESSION)
    assert [path.name for path in other.iterdir()] == [f"{SESSION}.jsonl.unusable"]


def test_resume_or_a_new_conversation_of_that_id(workspace: Workspace) -> None:
    new, old = options(workspace), options(workspace, resume=True)
    assert (new.session_id, new.resume) == (SESSION, None)
    assert (old.session_id, old.resume) == (None, SESSION)


def test_the_wishes_of_the_job(workspace: Workspace) -> None:
    made = options(
        workspace, model="m", max_turns=3, max_budget_usd=0.5, disallowed_tools=("X",), output_schema={"a": 1}
    )
    assert (made.model, made.max_turns, made.max_budget_usd, made.disallowed_tools) == ("m", 3, 0.5, ["X"])
    assert made.output_format == {"type": "json_schema", "schema": {"a": 1}}
    assert made.permission_mode == "bypassPermissions"
    assert options(workspace).model == "of-the-operator"


def test_named_tools_take_the_place_of_full_permissions(workspace: Workspace) -> None:
    made = options(workspace, allowed_tools=("Read", "Bash(git:*)"))
    assert (made.permission_mode, made.allowed_tools) == ("dontAsk", ["Read", "Bash(git:*)"])


def test_the_traps(workspace: Workspace) -> None:
    made = options(workspace, append=True)
    assert made.setting_sources == []
    assert made.strict_mcp_config
    assert made.verbatim_prompts
    assert made.max_buffer_size > 1024 * 1024
    assert "cleanupPeriodDays" in made.settings
    assert made.system_prompt == {"type": "preset", "preset": "claude_code"}
    assert made.extra_args == {"append-system-prompt-file": "/given/system-prompt.md"}
    assert options(workspace).extra_args == {}


@pytest.mark.parametrize(
    ("sources", "request_text", "expected"),
    [
        ((), None, ["MEMORY"]),
        ((), "MORE", ["MEMORY", "MORE"]),
        (("project",), "MORE", ["MORE"]),
        (("project",), None, []),
    ],
)
def test_what_is_added_to_the_system_prompt(
    workspace: Workspace, tmp_path: Path, sources: Any, request_text: str | None, expected: list[str]
) -> None:
    (workspace.files / "CLAUDE.md").write_text("MEMORY")
    written = write_system_prompt(
        order(workspace, append_system_prompt=request_text), settings(setting_sources=sources), tmp_path
    )
    text = (tmp_path / "system-prompt.md").read_text()
    assert written == bool(expected)
    assert [word for word in ("MEMORY", "MORE") if word in text] == expected
