"""The language of a script."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.rehearsal.conversation import directive_lines, first_words
from overnight.rehearsal.directives import (
    KNOWN,
    Answer,
    ApiError,
    Delay,
    Directive,
    Drop,
    Ending,
    Malformed,
    Recall,
    Say,
    Stall,
    Summary,
    Turn,
    Usage,
    Use,
    Write,
    compose,
    parse,
)


def turns_of(prompt: str) -> list[Turn]:
    return compose(directive_lines(prompt))


@pytest.mark.parametrize(
    ("line", "directive"),
    [
        ("say on my way", Say("on my way")),
        ("bash echo 'a  b' | cat", Use("Bash", {"command": "echo 'a  b' | cat", "timeout": 600_000})),
        ("bash printf 'a\tb'", Use("Bash", {"command": "printf 'a\tb'", "timeout": 600_000})),
        ("write a/b.txt one\\ntwo\\\\n", Write("a/b.txt", "one\ntwo\\n")),
        ("write empty", Write("empty", "")),
        ('tool Read {"file_path": "/x"}', Use("Read", {"file_path": "/x"})),
        ('structured {"a": [1]}', Use("StructuredOutput", {"a": [1]})),
        ("answer all done", Answer("all done")),
        ("recall", Recall()),
        ("big 12", Answer("012345678901")),
        ("usage 5 7", Usage(5, 7)),
        ("error 529", ApiError(529)),
        ("error 529 x2", ApiError(529, times=2)),
        ("error 429 reset=60 x1 retry-after=3", ApiError(429, times=1, retry_after=3, reset=60)),
        ("delay 0.5", Delay(0.5)),
        ("stall 3", Stall(3.0)),
        ("drop", Drop()),
        ("drop x1", Drop(1)),
    ],
)
def test_every_directive_is_understood(line: str, directive: Directive) -> None:
    assert parse(line) == directive


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Say hello",
        "dance",
        "say",
        "bash",
        "write",
        "tool",
        "tool Read",
        "tool Read [1]",
        'tool Read {"a": NaN}',
        "structured nothing",
        "recall all",
        "big",
        "big 0",
        "big many",
        f"big {10**400}",
        "usage 1",
        "usage 1 -1",
        "error",
        "error 200",
        "error 600",
        "error 529 2",
        "error 503 reset=60",
        "delay",
        "delay nan",
        "delay -1",
        "stall inf",
        "drop 1",
    ],
)
def test_what_cannot_be_followed_is_refused(line: str) -> None:
    with pytest.raises(Malformed):
        parse(line)


def test_a_script_with_a_bad_line_becomes_an_answer_that_names_it() -> None:
    [turn] = turns_of("Please.\nrehearsal: bash true\nrehearsal: dance sk-secret\nrehearsal: answer ok")
    assert isinstance(turn.act, Answer)
    assert "line 3" in turn.act.text
    assert all(name in turn.act.text for name in KNOWN)
    assert "sk-secret" not in turn.act.text


def test_nothing_can_follow_the_answer() -> None:
    [turn] = turns_of("rehearsal: answer a\nrehearsal: bash true")
    assert isinstance(turn.act, Answer)
    assert "line 2" in turn.act.text


def test_what_stands_before_a_step_belongs_to_its_turn() -> None:
    first, second = turns_of(
        "rehearsal: say hello\nrehearsal: error 529 x1\nrehearsal: usage 1 2\nrehearsal: bash true\n"
        "rehearsal: say bye"
    )
    assert first.says == ("hello",)
    assert first.faults == ((2, ApiError(529, times=1)),)
    assert first.usage == Usage(1, 2)
    assert second == Turn(Summary(), says=("bye",))


def test_only_lines_that_begin_with_the_prefix_are_directives() -> None:
    prompt = "I say rehearsal: bash false\n  rehearsal:bash true\r\n"
    assert directive_lines(prompt) == [(2, "bash true")]
    assert first_words("rehearsal: say x\n\n  Build a shop. \n") == "Build a shop."
    assert first_words("rehearsal: say x") == ""


words = st.text(max_size=20)
lines = st.builds("{} {}".format, st.sampled_from([*KNOWN, "dance", ""]), words) | words


@given(st.lists(lines, max_size=6))
def test_any_script_is_turns_with_one_ending(script: list[str]) -> None:
    turns = turns_of("\n".join(f"rehearsal: {line}" for line in script))
    endings = [isinstance(turn.act, Ending) for turn in turns]
    assert endings == [False] * (len(turns) - 1) + [True]


@given(st.text().filter(lambda text: text == text.strip()))
def test_any_content_can_be_written(content: str) -> None:
    escaped = content.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    assert parse(f"write f {escaped}") == Write("f", content)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3))
def test_a_tool_gets_its_input_verbatim(payload: dict[str, object]) -> None:
    assert parse(f"tool T {json.dumps(payload)}") == Use("T", payload)
