"""From the messages of the SDK to the events of a job: pure, and never an error, whatever comes."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import msgspec
from claude_agent_sdk import (
    AssistantMessage,
    RateLimitEvent,
    ResultMessage,
    ServerToolResultBlock,
    ServerToolUseBlock,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

TEXT_LIMIT = 64 * 1024
"""Characters of one string in an event. The transcript has all of it."""

EVENT_LIMIT = 1024 * 1024
"""Bytes of one event as JSON, which may be many strings: several are written, and read, at once."""

KEPT = ("id", "name", "is_error", "parent_id", "kind", "subtype")
"""What is told of an event over the limit."""

DEPTH_LIMIT = 60

EventDraft = tuple[str, dict[str, Any]]


def events_of(message: Any) -> Iterator[EventDraft]:
    """`(type, data)` of each event that the message makes; data is JSON-safe and bounded."""
    make = _MAKERS.get(type(message), _unknown)
    return ((kind, _bounded(safe_mapping(fields))) for kind, fields in make(message))


def _bounded(fields: dict[str, Any]) -> dict[str, Any]:
    size = len(msgspec.json.encode(fields))
    if size <= EVENT_LIMIT:
        return fields
    kept = {key: fields[key] for key in KEPT if isinstance(fields.get(key), str | bool)}
    return {**kept, "cut_bytes": size}


def safe_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {_text(str(key)): json_safe(item, 1) for key, item in value.items()}


def json_safe(value: Any, depth: int = 0) -> Any:
    """The same as JSON can say it: long strings are cut, lone surrogates, NaN and huge integers replaced."""
    if depth > DEPTH_LIMIT:
        return "[nested too deeply]"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(key)): json_safe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item, depth + 1) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_safe({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, depth + 1)
    return f"[{type(value).__name__}]"


def _text(text: str) -> str:
    if len(text) > TEXT_LIMIT:
        text = f"{text[:TEXT_LIMIT]}\n[cut: {TEXT_LIMIT} of {len(text)} characters]"
    return text.encode("utf-8", "replace").decode("utf-8")


def _assistant(message: AssistantMessage) -> Iterable[EventDraft]:
    error = [] if message.error is None else [("agent.error", {"error": message.error})]
    return _with_parent(chain(map(_block, message.content), error), message.parent_tool_use_id)


def _user(message: UserMessage) -> Iterable[EventDraft]:
    if isinstance(message.content, str):
        return []  # a prompt, which the job holds already
    results = (block for block in message.content if isinstance(block, ToolResultBlock))
    return _with_parent(map(_block, results), message.parent_tool_use_id)


def _with_parent(drafts: Iterable[EventDraft], parent: str | None) -> Iterable[EventDraft]:
    """Mark what a subagent did with the tool call that started it."""
    return drafts if parent is None else ((kind, {**fields, "parent_id": parent}) for kind, fields in drafts)


def _block(block: Any) -> EventDraft:
    match block:
        case TextBlock():
            return "agent.text", {"text": block.text}
        case ThinkingBlock():
            return "agent.thinking", {"text": block.thinking}
        case ToolUseBlock() | ServerToolUseBlock():
            return "tool.started", {"id": block.id, "name": block.name, "input": block.input}
        case ToolResultBlock():
            failed = bool(block.is_error)
            return "tool.finished", {"id": block.tool_use_id, "is_error": failed, "content": block.content}
        case ServerToolResultBlock():
            return "tool.finished", {"id": block.tool_use_id, "is_error": False, "content": block.content}
        case _:
            return "agent.message", {"kind": type(block).__name__}


def _system(message: SystemMessage) -> list[EventDraft]:
    fields = {key: value for key, value in message.data.items() if key not in _ENVELOPE}
    match message.subtype:
        case "init":
            return [("agent.started", _started(message.data))]
        case "api_retry" | "model_fallback":
            return [(f"agent.{message.subtype}", fields)]
        case _:
            return [("agent.system", {"subtype": message.subtype, **fields})]


_ENVELOPE = frozenset({"type", "subtype", "uuid", "session_id"})


def _started(init: Mapping[str, Any]) -> dict[str, Any]:
    tools = init.get("tools")
    return {
        "model": init.get("model"),
        "tools": len(tools) if isinstance(tools, list) else 0,
        "cwd": init.get("cwd"),
        "cli_version": init.get("claude_code_version"),
    }


def _rate_limit(event: RateLimitEvent) -> list[EventDraft]:
    limit = event.rate_limit_info
    return [
        (
            "agent.rate_limit",
            {"status": limit.status, "limit": limit.rate_limit_type, "resets_at": limit.resets_at},
        )
    ]


def _result(message: ResultMessage) -> list[EventDraft]:
    return [
        (
            "agent.result",
            {
                "subtype": message.subtype,
                "is_error": message.is_error,
                "terminal_reason": message.terminal_reason,
                "api_error_status": message.api_error_status,
                "num_turns": message.num_turns,
                "duration_ms": message.duration_ms,
                "usage": message.usage,
                "session_cost_usd": message.total_cost_usd,
                "permission_denials": len(message.permission_denials or ()),
            },
        )
    ]


def _unknown(message: Any) -> list[EventDraft]:
    """A kind that this version does not know. Subclasses of SystemMessage (tasks, hooks) come here too."""
    if isinstance(message, SystemMessage):
        return _system(message)
    fields = json_safe(message)
    return [
        ("agent.message", {"kind": type(message).__name__, **(fields if isinstance(fields, dict) else {})})
    ]


_MAKERS: Mapping[type, Callable[[Any], Iterable[EventDraft]]] = {
    AssistantMessage: _assistant,
    UserMessage: _user,
    SystemMessage: _system,
    RateLimitEvent: _rate_limit,
    ResultMessage: _result,
}
