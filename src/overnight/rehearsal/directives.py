"""The language of a script: each `rehearsal:` line is one directive."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LONGEST_PAUSE_SECONDS = 86_400.0
LONGEST_ANSWER = 16 * 1024 * 1024


class Malformed(ValueError):
    """What is wrong with an argument, for the author of the script. Never repeats the argument."""


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Use:
    """Any tool, with its input as it is to be sent."""

    tool: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Answer:
    text: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Answer with the first line of every earlier prompt."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Answer with the number of steps done; how a script ends that names no answer."""


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int = 100
    output_tokens: int = 20


@dataclass(frozen=True, slots=True)
class ApiError:
    """`times` None: for ever. `retry_after` and `reset` are seconds from now."""

    status: int
    times: int | None = None
    retry_after: int | None = None
    reset: int | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    seconds: float


@dataclass(frozen=True, slots=True)
class Stall:
    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection in mid-stream. `times` None: for ever."""

    times: int | None = None


Step = Use | Write
Ending = Answer | Recall | Summary
Fault = ApiError | Delay | Stall | Drop
Directive = Say | Step | Ending | Usage | Fault


@dataclass(frozen=True, slots=True)
class Turn:
    """One response of the model: what it says, what it does then, and what happens on the wire.

    Each fault comes with the number of its line, so that it can be counted.
    """

    act: Step | Ending
    says: tuple[str, ...] = ()
    faults: tuple[tuple[int, Fault], ...] = ()
    usage: Usage = Usage()


@dataclass(slots=True)
class _Draft:
    """The turn that the next step or ending will complete."""

    says: list[str] = field(default_factory=list)
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    usage: Usage = Usage()

    def complete(self, act: Step | Ending) -> Turn:
        return Turn(act, tuple(self.says), tuple(self.faults), self.usage)


def compose(lines: list[tuple[int, str]]) -> list[Turn]:
    """The turns of a script; the last one, and only that, ends it.

    A line that cannot be understood makes the whole script one answer that says so.
    """
    turns: list[Turn] = []
    draft = _Draft()
    for number, line in lines:
        try:
            directive = _next_directive(line, turns)
        except Malformed as problem:
            return [Turn(Answer(_complaint(number, problem)))]
        match directive:
            case Say():
                draft.says.append(directive.text)
            case Usage():
                draft.usage = directive
            case ApiError() | Delay() | Stall() | Drop():
                draft.faults.append((number, directive))
            case _:
                turns.append(draft.complete(directive))
                draft = _Draft()
    return turns if _has_ended(turns) else [*turns, draft.complete(Summary())]


def parse(line: str) -> Directive:
    """One directive, without its prefix. Raises Malformed."""
    name, argument = _split(line)
    if name not in _PARSERS:
        raise Malformed("there is no such directive")
    return _PARSERS[name](argument)


def _next_directive(line: str, turns: list[Turn]) -> Directive:
    if _has_ended(turns):
        raise Malformed("nothing can follow the final answer; put this line before it")
    return parse(line)


def _has_ended(turns: list[Turn]) -> bool:
    return bool(turns) and isinstance(turns[-1].act, Ending)


def _complaint(number: int, problem: Malformed) -> str:
    return (
        f"Rehearsal: line {number} of the prompt is not a directive that can be followed: {problem}. "
        f"Nothing was run. The directives are: {', '.join(KNOWN)}."
    )


def _say(argument: str) -> Say:
    return Say(_text(argument))


def _answer(argument: str) -> Answer:
    return Answer(_text(argument))


def _bash(argument: str) -> Use:
    # Milliseconds; the longest that the Bash tool of Claude Code takes without further settings.
    return Use("Bash", {"command": _text(argument), "timeout": 600_000})


def _write(argument: str) -> Write:
    path, content = _word(argument, "write PATH CONTENT: the path is missing")
    return Write(path, _unescape(content))


def _tool(argument: str) -> Use:
    name, payload = _word(argument, "tool NAME {json}: the name is missing")
    return Use(name, _json_object(payload))


def _structured(argument: str) -> Use:
    # The tool that Claude Code offers the model in a run with a JSON schema.
    return Use("StructuredOutput", _json_object(argument))


def _recall(argument: str) -> Recall:
    if argument:
        raise Malformed("recall takes no argument")
    return Recall()


def _big(argument: str) -> Answer:
    size = _whole(argument, LONGEST_ANSWER)
    if size == 0:
        raise Malformed("an answer has at least 1 character")
    return Answer(("0123456789" * (size // 10 + 1))[:size])


def _usage(argument: str) -> Usage:
    words = argument.split()
    if len(words) != 2:
        raise Malformed("usage INPUT OUTPUT takes two whole numbers")
    return Usage(*(_whole(word, 10**9) for word in words))


def _error(argument: str) -> ApiError:
    first, rest = _word(argument, "error STATUS [xN] [retry-after=S] [reset=S]: the status is missing")
    status = _whole(first, 599)
    options: dict[str, int] = dict(_error_option(word) for word in rest.split())
    if status < 400:  # RFC 9110: where the statuses of errors begin
        raise Malformed("the status of an error is 400 to 599")
    if "reset" in options and status != 429:  # RFC 6585: Too Many Requests
        raise Malformed("reset= belongs to status 429")
    return ApiError(status, **options)


def _error_option(word: str) -> tuple[str, int]:
    if word.startswith("x"):
        return "times", _times(word)
    name, _, seconds = word.partition("=")
    names = {"retry-after": "retry_after", "reset": "reset"}
    if name not in names:
        raise Malformed("after the status come xN, retry-after=SECONDS or reset=SECONDS")
    return names[name], _whole(seconds, int(LONGEST_PAUSE_SECONDS) * 30)


def _drop(argument: str) -> Drop:
    return Drop(_times(argument) if argument else None)


def _delay(argument: str) -> Delay:
    return Delay(_seconds(argument))


def _stall(argument: str) -> Stall:
    return Stall(_seconds(argument))


_PARSERS: Mapping[str, Callable[[str], Directive]] = {
    "say": _say,
    "bash": _bash,
    "write": _write,
    "tool": _tool,
    "structured": _structured,
    "answer": _answer,
    "recall": _recall,
    "big": _big,
    "usage": _usage,
    "error": _error,
    "delay": _delay,
    "stall": _stall,
    "drop": _drop,
}

KNOWN = tuple(_PARSERS)


def _text(argument: str) -> str:
    if not argument:
        raise Malformed("its text is missing")
    return argument


def _split(text: str) -> tuple[str, str]:
    """The first word, and the rest as it is."""
    word, *rest = text.split(None, 1) or [""]
    return word, "".join(rest)


def _word(argument: str, missing: str) -> tuple[str, str]:
    word, rest = _split(argument)
    if not word:
        raise Malformed(missing)
    return word, rest


def _unescape(content: str) -> str:
    escapes = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: escapes[found[1]], content)


def _json_object(payload: str) -> Mapping[str, Any]:
    try:
        value = json.loads(payload, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Malformed("its input must be one JSON object")
    return value


def _no_constant(name: str) -> None:
    """Python reads NaN and Infinity; JSON has no such numbers, so they could not be sent on."""
    raise ValueError(name)


def _times(word: str) -> int:
    if not word.startswith("x"):
        raise Malformed("how often is written xN, as in x2")
    return _whole(word[1:], 10**6)


def _whole(word: str, most: int) -> int:
    # The length first: int() refuses very long digits with an error of its own.
    if not re.fullmatch(r"[0-9]{1,12}", word) or int(word) > most:
        raise Malformed(f"a whole number from 0 to {most} is needed")
    return int(word)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_PAUSE_SECONDS:
        raise Malformed(f"a number of seconds from 0 to {LONGEST_PAUSE_SECONDS:.0f} is needed")
    return seconds
