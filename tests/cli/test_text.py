import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.cli.story import doing, line
from overnight.cli.text import columns, duration, first_line, money, size, visible
from overnight.client import Event

BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_nothing_is_left_that_steers_a_terminal_or_turns_text_around(text: str) -> None:
    shown = visible(text)
    shown.encode()
    for letter in shown:
        assert letter in "\n\t" or unicodedata.category(letter) not in {"Cc", "Cs", "Zl", "Zp"}
        assert unicodedata.bidirectional(letter) not in BIDI


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert visible(text) == text


def test_controls_are_shown_and_not_dropped() -> None:
    assert visible("a\x1b[2Jb\u202ec\U000e0041") == "a\\x1b[2Jb\\u202ec\\U000e0041"


@given(st.text(), st.integers(2, 50))
def test_a_first_line_fits(text: str, width: int) -> None:
    found = first_line(text, width)
    assert len(found) <= width
    assert "\n" not in found


def test_columns_are_aligned_and_whole() -> None:
    assert columns([("A", "BB"), ("long one", "x")]) == ["A         BB", "long one  x"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.21, "3.2 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (5025, "1 h 23 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_money_and_sizes() -> None:
    assert (money(0.00123), money(12.345)) == ("$0.0012", "$12.35")
    assert [size(count) for count in (10, 2048, 3 * 1024**2, 5 * 1024**4)] == [
        "10 bytes",
        "2.0 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]


def event(kind: str, **told: Any) -> Event:
    return Event(seq=1, type=kind, time=datetime.now(UTC), job_id="j", session_id="s", data=told)


@pytest.mark.parametrize(
    ("given_input", "shown"),
    [
        ({"command": "ls -l\nrm x"}, "Bash  ls -l"),
        ({"file_path": "/workspace/a.py", "content": "…"}, "Bash  /workspace/a.py"),
        ({"odd": [1]}, 'Bash  {"odd": [1]}'),
        ({}, "Bash"),
        (None, "Bash"),
        ("nonsense", "Bash"),
    ],
)
def test_a_tool_call_is_one_line(given_input: Any, shown: str) -> None:
    told = line(event("tool.started", name="Bash", input=given_input))
    assert told is not None
    assert told.text == shown


KINDS = st.sampled_from(
    [
        "job.queued",
        "job.started",
        "agent.text",
        "tool.started",
        "tool.finished",
        "agent.api_retry",
        "job.failed",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["text", "name", "input", "content", "is_error", "position", "isolation", "message"])


@given(KINDS, st.dictionaries(NAMES, JSON))
def test_whatever_an_event_holds_it_can_be_told(kind: str, told: dict[str, Any]) -> None:
    one = event(kind, **told)
    doing(one)
    shown = line(one)
    if shown is not None:
        assert shown.text == visible(shown.text)


def test_what_a_subagent_says_is_not_told_but_what_it_does_is() -> None:
    assert line(event("agent.text", text="hello", parent_id="t")) is None
    assert line(event("tool.started", name="Bash", parent_id="t")) is not None
    assert line(event("from.the.future")) is None
