"""Whose jobs a data directory holds."""

from enum import StrEnum
from pathlib import Path

from overnight.settings import SettingsError
from overnight.wiring.secrets import propose


class Ledger(StrEnum):
    """Where the truth about the jobs is whose files lie here."""

    OWN = "a service that keeps its jobs here"
    EDGE = "an edge"


def claim(data: Path, ledger: Ledger) -> None:
    """Give the directory to a kind of ledger, for good.

    Jobs of another look like those of erased sessions: they would be killed and their files deleted.
    Raises SettingsError if it has been given to another, OSError.
    """
    mark = data / "ledger"
    if not mark.exists():
        propose(mark, ledger)
    holder = mark.read_text(errors="replace").strip()
    if holder != ledger:
        raise SettingsError(
            f"{data} holds the files of {holder}, and nothing was touched. Name another directory in OVERNIGHT_DATA; "
            f"or delete {mark} if that is a mistake."
        )
