"""What a Messages API request holds of the conversation: prompts, what was said, tools and their results."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DIRECTIVE_PREFIX = "rehearsal:"

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)

# Claude Code 2.1.330 writes these as user text of its own; nobody asked for anything by them.
_NOT_A_PROMPT = re.compile(
    r"\[Request interrupted|\[structured-output-enforce\]|Continue from where you left off\.|Stop hook feedback:"
    r"|<(?:task-notification|command-name|command-message|local-command-[a-z]+)>"
)

# It says this for the model when a conversation is resumed in the middle of a turn.
_NO_RESPONSE = "No response requested."

# "# Environment" names the directory; an "# Environment update" after a move adds "(was /the/old/one)".
_CWD = re.compile(r"^[ \-]*(?:Primary w|W)orking directory: (/.*?)(?: \(was /.*\))?\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    text: str
    is_error: bool


@dataclass(slots=True)
class Call:
    id: str
    name: str
    input: Mapping[str, Any]
    result: Result | None = None


@dataclass(slots=True)
class Exchange:
    """One prompt and everything up to the next one. `answered`: the model said or did something in it."""

    prompt: str
    answered: bool = False
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str | list[dict[str, Any]]


def read_exchanges(messages: Iterable[Message]) -> list[Exchange]:
    """Each text block of a user message is a prompt of its own.

    Claude Code joins prompts that got no answer into one message, a block each.
    """
    exchanges: list[Exchange] = []
    for message in messages:
        for block in _blocks(message.content):
            _read_block(exchanges, message.role, block)
    return exchanges


def working_directory(system: str | list[dict[str, Any]] | None, messages: Sequence[Message]) -> str | None:
    """The newest one that the client states, in the system prompt or a message of the role `system`."""
    stated = [*_texts(system)]
    for message in messages:
        if message.role == "system":
            stated += _texts(message.content)
        if message.role == "user":
            stated += [note for text in _texts(message.content) for note in _REMINDER.findall(text)]
    found = [path for text in stated for path in _CWD.findall(text)]
    return found[-1] if found else None


def directive_lines(prompt: str) -> list[tuple[int, str]]:
    """The directives of a prompt without their prefix, each with its line number, which counts from 1."""
    lines = enumerate((line.strip() for line in prompt.split("\n")), start=1)
    return [(n, line.removeprefix(DIRECTIVE_PREFIX).strip()) for n, line in lines if _is_directive(line)]


def first_words(prompt: str) -> str:
    """The first line that is not a directive, cut at 200 characters; empty if there is none."""
    lines = (line.strip() for line in prompt.split("\n"))
    return next((line[:200] for line in lines if line and not _is_directive(line)), "")


def _is_directive(line: str) -> bool:
    return line.startswith(DIRECTIVE_PREFIX)


def _read_block(exchanges: list[Exchange], role: str, block: Mapping[str, Any]) -> None:
    kind = block.get("type")
    if role == "user" and kind == "text":
        prompt = _REMINDER.sub("", _text_of(block)).strip()
        if prompt and (directive_lines(prompt) or not _NOT_A_PROMPT.match(prompt)):
            exchanges.append(Exchange(prompt))
    else:
        _read_turn(exchanges, role, block)


def _read_turn(exchanges: list[Exchange], role: str, block: Mapping[str, Any]) -> None:
    if role == "assistant" and not exchanges:
        exchanges.append(
            Exchange(prompt="")
        )  # it was asked by an image, say: its steps must count all the same
    match role, block.get("type"):
        case "assistant", "text":
            exchanges[-1].answered |= _text_of(block) != _NO_RESPONSE
        case "assistant", "tool_use":
            exchanges[-1].answered = True
            call = Call(str(block.get("id")), str(block.get("name")), _mapping(block.get("input")))
            exchanges[-1].calls.append(call)
        case "user", "tool_result":
            _settle(exchanges, block)


def _settle(exchanges: list[Exchange], block: Mapping[str, Any]) -> None:
    text = "\n".join(_texts(block.get("content") or ""))
    for exchange in reversed(exchanges):
        for call in exchange.calls:
            if call.id == block.get("tool_use_id"):
                call.result = Result(text, bool(block.get("is_error")))
                return


def _texts(content: object) -> Iterator[str]:
    return (_text_of(block) for block in _blocks(content) if block.get("type") == "text")


def _blocks(content: object) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _text_of(block: Mapping[str, Any]) -> str:
    text = block.get("text")
    return text if isinstance(text, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
