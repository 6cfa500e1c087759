"""From messages of the SDK to events."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    RateLimitEvent,
    RateLimitInfo,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.agent.messages import EVENT_LIMIT, TEXT_LIMIT, events_of, json_safe


def assistant(*blocks: Any, **fields: Any) -> AssistantMessage:
    return AssistantMessage(content=list(blocks), model="m", **fields)


@pytest.mark.parametrize(
    ("message", "events"),
    [
        (
            SystemMessage(
                subtype="init",
                data={
                    "model": "m",
                    "tools": ["A", "B"],
                    "cwd": "/w",
                    "claude_code_version": "2",
                    "apiKey": "x",
                },
            ),
            [("agent.started", {"model": "m", "tools": 2, "cwd": "/w", "cli_version": "2"})],
        ),
        (assistant(TextBlock(text="hi")), [("agent.text", {"text": "hi"})]),
        (assistant(ThinkingBlock(thinking="hm", signature="s")), [("agent.thinking", {"text": "hm"})]),
        (
            assistant(TextBlock(text="a"), ToolUseBlock(id="t", name="Bash", input={"command": "ls"})),
            [
                ("agent.text", {"text": "a"}),
                ("tool.started", {"id": "t", "name": "Bash", "input": {"command": "ls"}}),
            ],
        ),
        (
            assistant(TextBlock(text="a"), parent_tool_use_id="p"),
            [("agent.text", {"text": "a", "parent_id": "p"})],
        ),
        (assistant(error="overloaded"), [("agent.error", {"error": "overloaded"})]),
        (
            UserMessage(content=[ToolResultBlock(tool_use_id="t", content="out", is_error=None)]),
            [("tool.finished", {"id": "t", "is_error": False, "content": "out"})],
        ),
        (UserMessage(content="the prompt"), []),
        (
            SystemMessage(subtype="api_retry", data={"type": "system", "attempt": 1, "error_status": 529}),
            [("agent.api_retry", {"attempt": 1, "error_status": 529})],
        ),
        (
            SystemMessage(subtype="model_fallback", data={"to": "m"}),
            [("agent.model_fallback", {"to": "m"})],
        ),
        (
            SystemMessage(subtype="brand_new", data={"x": 1, "uuid": "u"}),
            [("agent.system", {"subtype": "brand_new", "x": 1})],
        ),
        (
            RateLimitEvent(
                rate_limit_info=RateLimitInfo(status="rejected", resets_at=5, rate_limit_type="five_hour"),
                uuid="u",
                session_id="s",
            ),
            [("agent.rate_limit", {"status": "rejected", "limit": "five_hour", "resets_at": 5})],
        ),
    ],
)
def test_known_messages(message: Any, events: list[Any]) -> None:
    assert list(events_of(message)) == events


def test_a_result_tells_the_cost_of_the_whole_conversation() -> None:
    message = ResultMessage(
        subtype="success",
        duration_ms=9,
        duration_api_ms=1,
        is_error=False,
        num_turns=2,
        session_id="s",
        total_cost_usd=0.25,
    )
    ((kind, fields),) = events_of(message)
    assert (kind, fields["session_cost_usd"], fields["num_turns"]) == ("agent.result", 0.25, 2)


@dataclass
class Novelty:
    text: str


def test_a_message_that_nobody_knows_is_an_event() -> None:
    assert list(events_of(Novelty("x"))) == [("agent.message", {"kind": "Novelty", "text": "x"})]
    assert list(events_of(object())) == [("agent.message", {"kind": "object"})]
    stream = StreamEvent(uuid="u", session_id="s", event={"a": 1})
    assert [kind for kind, _ in events_of(stream)] == ["agent.message"]


def test_long_text_is_cut_and_says_so() -> None:
    ((_, fields),) = events_of(assistant(TextBlock(text="x" * 200_000)))
    assert fields["text"].startswith("x" * TEXT_LIMIT + "\n[cut: ")
    assert "200000" in fields["text"]
    whole = "x" * TEXT_LIMIT
    assert list(events_of(assistant(TextBlock(text=whole)))) == [("agent.text", {"text": whole})]


def test_an_event_of_many_strings_is_bounded_too() -> None:
    """One line of Claude Code may have 64 MiB, and what reads it is a model's or an agent's."""
    many: dict[str, Any] = {
        "id": "t",
        "name": "Write",
        "input": {str(number): "x" * 1000 for number in range(2000)},
    }
    ((kind, fields),) = events_of(assistant(ToolUseBlock(**many)))
    assert (kind, fields["id"], fields["name"]) == ("tool.started", "t", "Write")
    assert fields["cut_bytes"] > EVENT_LIMIT > len(json.dumps(fields))
    keys = SystemMessage(subtype="x", data={str(number): number for number in range(200_000)})
    ((_, told),) = events_of(keys)
    assert set(told) == {"subtype", "cut_bytes"}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=15,
)


@given(anything)
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_json_afterwards(value: Any) -> None:
    json.dumps(json_safe(value), allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_deep_nesting_and_lone_surrogates() -> None:
    deep: Any = "\ud800"
    for _ in range(5000):
        deep = [deep]
    json.dumps(json_safe(deep))
    assert json_safe("a\ud800b") == "a?b"
    assert json_safe([1 << 63, -5, True]) == [str(1 << 63), -5, True]
