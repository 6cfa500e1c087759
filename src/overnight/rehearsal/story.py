"""What a prompt without directives gets: a small true story, so that a newcomer's own words work too."""

from collections.abc import Sequence

from overnight.rehearsal.conversation import Call, Exchange, Result, first_words
from overnight.rehearsal.directives import Answer, Turn, Use, Write

# Neither program holds a single quote: quoted for a shell it must stay recognisable (`_wrote_program`).
PROGRAM = '''\
"""The first primes, by trial division."""


def first_primes(count):
    primes = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes


if __name__ == "__main__":
    print(*first_primes(10))
'''

CHECK = '''\
"""Checks hello.py in another way: a prime has exactly two divisors."""

from hello import first_primes

primes = first_primes({count})
assert all(sum(number % divisor == 0 for divisor in range(1, number + 1)) == 2 for number in primes)
print(f"hello.py is right: {{len(primes)}} primes checked, the largest is {{primes[-1]}}.")
'''

_MARK = PROGRAM.partition("\n")[0]
_CHECK_MARK = CHECK.partition("\n")[0]


def story(prompt: str, earlier: Sequence[Exchange], results: Sequence[Result]) -> list[Turn]:
    """`results`: of the steps of this very story that are done."""
    written = [exchange for exchange in earlier if _wrote_program(exchange)]
    if not written:
        return _first_job(prompt, results)
    return _next_job(prompt, written, results)


def _first_job(prompt: str, results: Sequence[Result]) -> list[Turn]:
    opening = "This is a rehearsal: no model is called. I write a small program and run it."
    answer = f"{_opening(prompt)} It got a stand-in program, hello.py. {_outcome(results)}"
    return _turns(opening, Write("hello.py", PROGRAM), "hello.py", answer, results)


def _next_job(prompt: str, written: Sequence[Exchange], results: Sequence[Result]) -> list[Turn]:
    name = "hello_test.py" if len(written) == 1 else f"hello_test_{len(written)}.py"
    opening = "This is a rehearsal: no model is called. I check the program that I wrote before."
    answer = (
        f"{_opening(prompt)} It builds on your earlier prompt, {_quoted(written[-1].prompt)}: "
        f"{name} checks the hello.py of this session. {_outcome(results)}"
    )
    check = CHECK.format(count=10 * (len(written) + 1))
    return _turns(opening, Write(name, check), name, answer, results)


def _turns(opening: str, write: Write, name: str, answer: str, results: Sequence[Result]) -> list[Turn]:
    # A file that was not written is not run: what lies there under its name is somebody else's.
    run = [Turn(Use("Bash", {"command": _run(name), "timeout": 600_000}))]
    could_write = not (results and results[0].is_error)
    return [Turn(write, says=(opening,)), *(run if could_write else []), Turn(Answer(answer))]


def _run(name: str) -> str:
    """-B: no __pycache__ in the user's workspace."""
    return f"if command -v python3 >/dev/null; then python3 -B {name}; else python -B {name}; fi"


def _opening(prompt: str) -> str:
    return f"This is a rehearsal: no model was called, and {_quoted(prompt)} was not really worked on."


def _quoted(prompt: str) -> str:
    return f'"{first_words(prompt)}"'


def _outcome(results: Sequence[Result]) -> str:
    if not results:
        return "It was not run."
    last = results[-1]
    verb = "The last step failed:" if last.is_error else "Run, it printed:"
    return f"{verb}\n\n{last.text.strip()}"


def _wrote_program(exchange: Exchange) -> bool:
    return any(_is_ours(call) and call.result and not call.result.is_error for call in exchange.calls)


def _is_ours(call: Call) -> bool:
    """By content, not by name: a hello.py of anybody else is not built on."""
    texts = [value for value in call.input.values() if isinstance(value, str)]
    return any(_MARK in text or _CHECK_MARK in text for text in texts)
