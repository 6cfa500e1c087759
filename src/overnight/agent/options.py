"""From an order to the options of the SDK (the recipe of facts: claude-code 9)."""

import json
from collections.abc import Callable
from pathlib import Path

from claude_agent_sdk import ClaudeAgentOptions

from overnight.agent.environment import View
from overnight.agent.memory import instructions
from overnight.ports import RunOrder, Workspace
from overnight.settings import Settings

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of one message of the CLI. The SDK's default of 1 MiB kills the run at the edit of a 2 MiB file."""

KEEP_TRANSCRIPTS = json.dumps({"cleanupPeriodDays": 36500})
"""Else the CLI deletes, as it starts, every conversation whose file is over 30 days old."""

SYSTEM_PROMPT = "system-prompt.md"


def has_conversation(workspace: Workspace, session_id: str) -> bool:
    """Whether there is something to resume: a transcript in any folder of the config directory will do."""
    return bool(transcripts_of(workspace, session_id))


def set_aside(workspace: Workspace, session_id: str) -> None:
    """Make room for a new conversation of the same id: the CLI calls an id "already in use" as long as there
    is a file of its name, also one that holds no conversation."""
    for path in transcripts_of(workspace, session_id):
        path.replace(path.with_suffix(".jsonl.unusable"))


def transcripts_of(workspace: Workspace, session_id: str) -> list[Path]:
    """Nothing beyond a link: an earlier run of this workspace may have put one anywhere below its HOME."""
    projects = workspace.transcripts.parent
    if any(step.is_symlink() for step in (workspace.home, projects.parent, projects)):
        return []
    return [path for path in projects.glob(f"*/{session_id}.jsonl") if not path.parent.is_symlink()]


def write_system_prompt(order: RunOrder, settings: Settings, given: Path) -> bool:
    """What is added to Claude Code's own system prompt goes by a file: it may be large, and `ps` shows
    arguments. Returns whether there is anything to add."""
    # With settings loaded from the project, Claude Code reads its CLAUDE.md files itself.
    memory = "" if settings.setting_sources else instructions(order.workspace.files)
    text = "\n\n".join(part for part in (memory, order.request.append_system_prompt) if part)
    path = given / SYSTEM_PROMPT
    path.write_text(text, encoding="utf-8")
    path.chmod(0o640)  # its group is the run's
    return bool(text)


def options_for(
    order: RunOrder,
    settings: Settings,
    *,
    launcher: Path,
    view: View,
    resume: bool,
    append: bool,
    stderr: Callable[[str], None],
) -> ClaudeAgentOptions:
    request = order.request
    schema = request.output_schema
    return ClaudeAgentOptions(
        cli_path=launcher,
        cwd=order.workspace.files,
        system_prompt={"type": "preset", "preset": "claude_code"},
        extra_args={"append-system-prompt-file": str(view.given / SYSTEM_PROMPT)} if append else {},
        # Full permissions, unless the caller named the tools: then these are allowed, and nobody is there to
        # be asked about others.
        permission_mode="dontAsk" if request.allowed_tools else "bypassPermissions",
        allowed_tools=list(request.allowed_tools),
        disallowed_tools=list(request.disallowed_tools),
        setting_sources=list(settings.setting_sources),
        strict_mcp_config=True,
        verbatim_prompts=True,
        settings=KEEP_TRANSCRIPTS,
        max_buffer_size=MAX_LINE_BYTES,
        model=request.model or settings.model,
        max_turns=request.max_turns,
        max_budget_usd=request.max_budget_usd,
        output_format=None if schema is None else {"type": "json_schema", "schema": schema},
        resume=order.session_id if resume else None,
        session_id=None if resume else order.session_id,
        stderr=stderr,
    )
