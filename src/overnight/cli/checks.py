"""What a check of `overnight doctor` has found, and how that is shown."""

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from overnight.cli.show import say, terminal
from overnight.cli.text import visible


class Verdict(StrEnum):
    """A note is something to know; it stops nothing."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


class Check(Struct, frozen=True, kw_only=True):
    name: str
    verdict: Verdict
    finding: str
    remedy: str | None = None


def judged(name: str, good: bool, finding: str, remedy: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.GOOD if good else Verdict.BAD, finding=finding, remedy=remedy)


def note(name: str, finding: str, remedy: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.NOTE, finding=finding, remedy=remedy)


def tell(checks: Sequence[Check]) -> None:
    console = terminal()
    looks = {Verdict.GOOD: ("✓", "green"), Verdict.NOTE: ("!", "yellow"), Verdict.BAD: ("✗", "red")}
    for check in checks:
        mark, style = looks[check.verdict]
        say(console, f"{mark} {check.name}: {visible(check.finding)}", style)
        if check.remedy is not None and check.verdict is not Verdict.GOOD:
            say(console, f"  {check.remedy}")


def any_bad(checks: Sequence[Check]) -> bool:
    return any(check.verdict is Verdict.BAD for check in checks)
