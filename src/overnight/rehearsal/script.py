"""Decides what the model says next, from nothing but the conversation in the request.

The script in force is that of the newest prompt. How far it has got stands in the conversation: the id of each
tool call carries the number of its step.
"""

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overnight.rehearsal.conversation import (
    Call,
    Exchange,
    Message,
    Result,
    directive_lines,
    first_words,
    read_exchanges,
    working_directory,
)
from overnight.rehearsal.directives import Answer, Fault, Recall, Summary, Turn, Usage, Use, Write, compose
from overnight.rehearsal.story import story

_STEP_ID = re.compile(r"toolu_rehearsal_([0-9]{1,9})_")

# How overnight starts the prompt of a later attempt (domain/prompts.py); the task itself follows in the tags.
_INTERRUPTED = "Your work on the task below was interrupted"
_TASK = re.compile(r"<task>\n?(.*)\n?</task>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RunKey:
    """One run of a script in a conversation, however often it was interrupted. Faults are counted by it."""

    first_prompt: int
    task: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    id: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The next response. With no `tool_use` it is the final answer."""

    texts: tuple[str, ...]
    tool_use: ToolUse | None
    usage: Usage
    faults: tuple[tuple[int, Fault], ...]
    run: RunKey


@dataclass(frozen=True, slots=True)
class _Run:
    """The exchanges since the script in force was first sent, without those of other tasks in between."""

    key: RunKey
    earlier: Sequence[Exchange]
    calls: Sequence[tuple[Call, bool]]  # a call, and whether it belongs to the newest prompt

    def next_step(self) -> int:
        """After the last step begun, or that step again.

        Within one prompt a failed command is done: the script goes on. Before an interruption it is not,
        because the failure may be the interruption.
        """
        step = 0
        for call, is_newest in self.calls:
            settled = call.result is not None and (is_newest or not call.result.is_error)
            step = _step_of(call) + settled
        return step

    def results(self) -> list[Result]:
        """Of the steps done, in the order of the script."""
        done = {_step_of(call): call.result for call, _ in self.calls if call.result}
        return [done[step] for step in sorted(done) if step < self.next_step()]


def reply_to(system: str | list[dict[str, Any]] | None, messages: Sequence[Message], suffix: str) -> Reply:
    """`suffix` makes the id of a tool call unique."""
    run = _run_in_force(read_exchanges(messages))
    turns = _turns(run)
    step = min(run.next_step(), len(turns) - 1)
    turn = turns[step]
    tool_use: ToolUse | None = None
    match turn.act:
        case Use() | Write():
            tool_use = _tool_use(
                turn.act, f"toolu_rehearsal_{step}_{suffix}", working_directory(system, messages)
            )
            texts = turn.says
        case _:
            texts = (*turn.says, _final_answer(turn, run, step))
    return Reply(texts, tool_use, turn.usage, turn.faults, run.key)


def _run_in_force(exchanges: Sequence[Exchange]) -> _Run:
    if not exchanges:
        return _Run(RunKey(0, ""), (), ())
    newest = len(exchanges) - 1
    first = _first_of_run(exchanges)
    task = _task(exchanges[newest].prompt)
    parts = [n for n in range(first, len(exchanges)) if _is_same(_task(exchanges[n].prompt), task)]
    calls = [(call, n == newest) for n in parts for call in exchanges[n].calls if _STEP_ID.match(call.id)]
    return _Run(RunKey(first, task), exchanges[:first], calls)


def _first_of_run(exchanges: Sequence[Exchange]) -> int:
    """A prompt goes on with an earlier one if it says so, or if the earlier one got no answer at all."""
    first = len(exchanges) - 1
    task = _task(exchanges[first].prompt)
    for n in reversed(range(first)):
        goes_on = _is_continuation(exchanges[first].prompt) or not any(e.answered for e in exchanges[n:first])
        if not goes_on:
            break
        if _is_same(_task(exchanges[n].prompt), task):
            first = n
    return first


def _turns(run: _Run) -> list[Turn]:
    lines = directive_lines(run.key.task)
    return compose(lines) if lines else story(run.key.task, run.earlier, run.results())


def _final_answer(turn: Turn, run: _Run, step: int) -> str:
    match turn.act:
        case Answer(text):
            return text
        case Recall():
            return _recalled(run.earlier)
        case Summary():
            return f"Rehearsal: ran {step} step{'' if step == 1 else 's'}."
        case _:
            raise AssertionError("only an ending answers")


def _recalled(earlier: Sequence[Exchange]) -> str:
    """A continuation repeats a task that is in the list already, unless the conversation before it was lost."""
    tasks: list[str] = []
    for exchange in earlier:
        task = _task(exchange.prompt)
        if task and not (_is_continuation(exchange.prompt) and task in tasks):
            tasks.append(task)
    lines = [first_words(task) or "(only directives)" for task in tasks]
    return "\n".join(lines) or "There was no earlier prompt."


def _tool_use(act: Use | Write, tool_use_id: str, cwd: str | None) -> ToolUse:
    match act:
        case Use(name, payload):
            return ToolUse(tool_use_id, name, payload)
        case Write(path, content):
            if cwd is None and not path.startswith("/"):
                return ToolUse(tool_use_id, "Bash", _write_by_shell(path, content))
            absolute = posixpath.join(cwd or "/", path)
            return ToolUse(tool_use_id, "Write", {"file_path": absolute, "content": content})


def _write_by_shell(path: str, content: str) -> dict[str, Any]:
    """The Write tool takes absolute paths only; without a known directory the shell has to resolve it."""
    target = shlex.quote(f"./{path}")
    command = f'mkdir -p "$(dirname {target})" && printf %s {shlex.quote(content)} > {target}'
    return {"command": command, "timeout": 600_000}


def _is_continuation(prompt: str) -> bool:
    return prompt.startswith(_INTERRUPTED) and _TASK.search(prompt) is not None


def _task(prompt: str) -> str:
    found = _TASK.search(prompt) if prompt.startswith(_INTERRUPTED) else None
    return found[1].strip() if found else prompt


def _is_same(task: str, other: str) -> bool:
    """The same directives make the same script, whatever is written around them."""
    mine, others = (_directives(text) for text in (task, other))
    return mine == others if mine or others else task == other


def _directives(task: str) -> list[str]:
    return [line for _, line in directive_lines(task)]


def _step_of(call: Call) -> int:
    found = _STEP_ID.match(call.id)
    assert found, "calls of other origin were left out"
    return int(found[1])
