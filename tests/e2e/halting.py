"""`halting.py EVENT PATTERN FIFO ARGUMENT...`: the command `overnight ARGUMENT...`, one thread of which halts once.

It halts right before the first act that Python tells of as the audit event EVENT with an argument that PATTERN fits
(`os.link`, `open`, ...; see the "audit events table" of Python's documentation), and goes on when somebody opens FIFO
to write. `FIFO.reached` is there from then on. So a test has a process at exactly that moment, and nothing of
overnight is replaced.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from overnight.cli.main import main


def halt_once(event: str, pattern: re.Pattern[str], fifo: Path) -> None:
    armed = [True]

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and armed and any(pattern.search(text) for text in map(_text, arguments)):
            armed.clear()
            fifo.with_suffix(".reached").touch()
            fifo.read_bytes()

    sys.addaudithook(hook)


def _text(argument: Any) -> str:
    return os.fsdecode(argument) if isinstance(argument, bytes | str | os.PathLike) else ""


if __name__ == "__main__":
    halt_once(sys.argv[1], re.compile(sys.argv[2]), Path(sys.argv[3]))
    del sys.argv[1:4]
    main()
