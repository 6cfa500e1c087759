"""What an event looks like as a line for people. Pure; an event that is unknown here is simply not told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from overnight.cli.text import first_line, visible
from overnight.client import Event

WIDTH = 100

_TELLING = ("command", "file_path", "notebook_path", "pattern", "url", "query", "description", "prompt")
"""Inputs of Claude Code's tools that say best what a call is about, in that order."""


@dataclass(frozen=True, slots=True)
class Line:
    """`mark` is the sign before it; `style` is one of rich's."""

    mark: str
    text: str
    style: str = ""


def line(event: Event) -> Line | None:
    tell = _TOLD.get(event.type)
    return tell(event.data) if tell is not None and not _murmur(event) else None


def doing(event: Event) -> str | None:
    """What the job is busy with after this event, for the status line; None if it did not change."""
    if event.type == "tool.started":
        return f"running {first_line(_text(event.data, 'name'), 40)}"
    return _DOING.get(event.type)


def tool_input(given: Any) -> str:
    """The telling part of a tool's input, short."""
    if not isinstance(given, Mapping):
        return ""
    for name in _TELLING:
        if isinstance(given.get(name), str):
            return first_line(given[name], WIDTH)
    return first_line(json.dumps(given), WIDTH) if given else ""


_DOING = {
    "job.queued": "queued",
    "job.resent": "queued",
    "job.started": "starting",
    "workspace.ready": "starting",
    "agent.started": "thinking",
    "agent.text": "thinking",
    "tool.finished": "thinking",
    "agent.api_retry": "waiting for the API",
    "agent.result": "saving",
    "job.retry_scheduled": "waiting for the next try",
    "job.rate_limited": "waiting for the rate limit",
    "job.over_daily_budget": "waiting for tomorrow's budget",
    "job.worker_lost": "waiting for a worker",
    "job.handed_back": "waiting for a worker",
    "job.cancel_requested": "stopping",
}


def _murmur(event: Event) -> bool:
    """What a subagent says is for the agent that asked it; only what it does is told."""
    return event.type == "agent.text" and "parent_id" in event.data


def _queued(told: Mapping[str, Any]) -> Line:
    ahead = told.get("position")
    behind = f", behind {ahead} of its session" if isinstance(ahead, int) and ahead > 0 else ""
    return Line("·", f"queued{behind}", "dim")


def _started(told: Mapping[str, Any]) -> Line:
    isolation = _text(told, "isolation")
    return Line("·", f"started{f' (isolation: {isolation})' if isolation else ''}", "dim")


def _said(told: Mapping[str, Any]) -> Line | None:
    text = visible(_text(told, "text")).strip()
    return Line(" ", text) if text else None


def _tool_started(told: Mapping[str, Any]) -> Line:
    name = first_line(_text(told, "name"), 40) or "tool"
    return Line("●", f"{name}  {tool_input(told.get('input'))}".rstrip(), "cyan")


def _tool_finished(told: Mapping[str, Any]) -> Line | None:
    if told.get("is_error") is not True:
        return None
    return Line("✗", first_line(_content(told.get("content")), WIDTH) or "the tool failed", "red")


def _trouble(what: str) -> Callable[[Mapping[str, Any]], Line]:
    def tell(told: Mapping[str, Any]) -> Line:
        message = first_line(_text(told, "message"), 2 * WIDTH)
        return Line("!", f"{what}: {message}" if message else what, "yellow")

    return tell


def _secret_found(told: Mapping[str, Any]) -> Line:
    return Line(
        "!", f"a secret is in {first_line(_text(told, 'path'), WIDTH)} ({_text(told, 'kind')})", "yellow"
    )


def _ended(mark: str, word: str, style: str) -> Callable[[Mapping[str, Any]], Line]:
    def tell(told: Mapping[str, Any]) -> Line:
        message = visible(_text(told, "message"))
        return Line(mark, f"{word}: {message}" if message else word, style)

    return tell


def _content(content: Any) -> str:
    """A tool's result is text, or a list of blocks of which some are text."""
    if isinstance(content, list):
        return "\n".join(_text(block, "text") for block in content if isinstance(block, Mapping))
    return content if isinstance(content, str) else ""


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""


_TOLD: dict[str, Callable[[Mapping[str, Any]], Line | None]] = {
    "job.queued": _queued,
    "job.resent": _queued,
    "job.started": _started,
    "agent.text": _said,
    "tool.started": _tool_started,
    "tool.finished": _tool_finished,
    "agent.api_retry": _trouble("the API did not answer, trying again"),
    "agent.rate_limit": _trouble("the API reports a rate limit"),
    "agent.model_fallback": _trouble("another model took over"),
    "archive.secret_found": _secret_found,
    "workspace.not_saved": _trouble("the workspace could not be stored; it is kept on the worker's disk"),
    "conversation.left_out": _trouble("the run destroyed its conversation: the next job starts without it"),
    "job.retry_scheduled": _trouble("this try failed, another follows"),
    "job.rate_limited": _trouble("rate limited, it goes on later"),
    "job.over_daily_budget": _trouble("the owner's budget of the day is used up, it goes on tomorrow (UTC)"),
    "job.worker_lost": _trouble("the worker died, another goes on"),
    "job.handed_back": _trouble("the worker shuts down, the job goes on later"),
    "job.cancel_requested": _trouble("cancelling"),
    "job.completed": _ended("✓", "completed", "green"),
    "job.failed": _ended("✗", "failed", "red"),
    "job.cancelled": _ended("■", "cancelled", "yellow"),
}
