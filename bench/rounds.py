"""Contenders take turns, so that a busy minute of the machine slows all of them; medians are compared."""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.archive import remove_tree

Contender = Callable[[Path], object]
"""Does the work once, in a fresh directory that is removed afterwards, off the clock."""


@dataclass(frozen=True)
class Taken:
    """Seconds; `cpu` counts this process and the programs that it waited for."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Target:
    """`contender` must be `least` times faster than `reference`, or take at most `most` times as long."""

    contender: str
    reference: str
    least: float | None = None
    most: float | None = None
    of: str = "wall"

    def verdict(self, ratio_in_time: float) -> str:
        if self.least is not None:
            met, said = (
                1 / ratio_in_time >= self.least,
                f"{1 / ratio_in_time:.2f}x faster, at least {self.least}",
            )
        else:
            met, said = (
                ratio_in_time <= (self.most or 0),
                f"{ratio_in_time:.2f}x the time, at most {self.most}",
            )
        return f"{self.contender} against {self.reference} ({self.of}): {said}: {'met' if met else 'MISSED'}"


def take_turns(
    contenders: Mapping[str, Contender],
    rounds: int,
    place: Path,
    prepare: Callable[[int], object] = lambda _: None,
) -> dict[str, list[Taken]]:
    """One round more than asked warms up and is not counted. Every second round goes backwards.

    `prepare` is called with the number of each round before it, off the clock.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        prepare(number)
        for name in _order(list(contenders), number):
            fresh = place / f"round-{number}"
            fresh.mkdir()
            spent = timed(lambda name=name, fresh=fresh: contenders[name](fresh))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
            remove_tree(fresh)
            if number:
                taken[name].append(spent)
    return taken


def _order(names: Sequence[str], number: int) -> Iterator[str]:
    return iter(names if number % 2 else reversed(names))


def timed(work: Callable[[], object]) -> Taken:
    wall, cpu = time.perf_counter(), _cpu()
    work()
    return Taken(time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def median(taken: Sequence[Taken], of: str) -> float:
    return statistics.median(one.wall if of == "wall" else one.cpu for one in taken)


def report(
    taken: Mapping[str, Sequence[Taken]], reference: str, targets: Sequence[Target], notes: Mapping[str, str]
) -> None:
    """A row each: medians, the spread, and how many times faster than the reference."""
    print("| contender | wall ms [least-most] | CPU ms | x wall | x CPU | |\n|---|---|---|---|---|---|")
    wall, cpu = (median(taken[reference], of) for of in ("wall", "cpu"))
    for name, rounds in taken.items():
        mine, burnt = median(rounds, "wall"), median(rounds, "cpu")
        walls = [one.wall * 1000 for one in rounds]
        print(
            f"| {name} | {mine * 1000:.0f} [{min(walls):.0f}-{max(walls):.0f}] | {burnt * 1000:.0f} "
            f"| {wall / mine:.2f} | {cpu / burnt:.2f} | {notes.get(name, '')} |"
        )
    print()
    for target in targets:
        of = target.of
        ratio = median(taken[target.contender], of) / median(taken[target.reference], of)
        print(f"- {target.verdict(ratio)}")
