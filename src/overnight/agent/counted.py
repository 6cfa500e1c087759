"""Where a run's own cost begins in the total that Claude Code tells.

The total is that of the whole conversation, and goes with the transcript (a line `cost-state`, written as the process
ends; measured with 2.1.330). What was counted elsewhere since, say after the checkpoint that is gone on from, is not in
it. So only the transcript that is resumed tells what of the next total is old.

One part of it is new all the same: what an earlier attempt wrote there whose worker died before it was charged. For
that each run notes beside its workspace where it began.
"""

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTE = "counted.json"
"""In the root of the workspace, where no run can reach it."""

MARKER = b'"type":"cost-state"'
"""Not to be found inside a string of a line: there its quotes are escaped."""

STEP = 1 << 20
LONGEST = 1 << 20
"""Bytes of such a line that are read; it is a few hundred long."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a run's total begins with, in US dollars: `charged` already, and `unpaid`."""

    charged: float = 0.0
    unpaid: float = 0.0


def begin_counting(
    root: Path, transcripts: Sequence[Path], *, job_id: str, attempt: int, charged: int
) -> Counted:
    """Noted at `root`, for an attempt that goes on there after this one.

    `charged` is the last attempt of the job that was charged. Raises OSError.
    """
    total = paid = max(map(counted_before, transcripts), default=0.0)
    noted = _noted(root)
    if noted is not None and noted["job_id"] == job_id and noted["attempt"] > charged:
        paid = min(total, noted["charged_usd"])
    (root / NOTE).write_text(json.dumps({"job_id": job_id, "attempt": attempt, "charged_usd": paid}))
    return Counted(paid, total - paid)


def _noted(root: Path) -> Any:
    try:
        return json.loads((root / NOTE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # The machine lost its power as this was written.
        return None


def counted_before(transcript: Path) -> float:
    """US dollars that Claude Code will begin to count from when it resumes the transcript; 0.0 if it tells none.

    An agent may have made anything of the file: it is not followed if it is a link, and only read if it is a file.
    """
    try:
        fd = os.open(transcript, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return 0.0
        return _last_total(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _last_total(fd: int, end: int) -> float:
    while (at := _rfind(fd, end)) is not None:
        total = _total(_line_around(fd, at))
        if total is not None:
            return total
        end = at
    return 0.0


def _rfind(fd: int, end: int) -> int | None:
    """Where the last marker before `end` begins."""
    while end > 0:
        start = max(end - STEP, 0)
        found = os.pread(fd, end - start, start).rfind(MARKER)
        if found >= 0:
            return start + found
        end = start and start + len(MARKER) - 1
    return None


def _line_around(fd: int, at: int) -> bytes:
    start = max(at - LONGEST, 0)
    before = os.pread(fd, at - start, start).rpartition(b"\n")[2]
    return before + os.pread(fd, LONGEST, at).partition(b"\n")[0]


def _total(line: bytes) -> float | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    total = told.get("totalCostUSD") if isinstance(told, dict) else None
    return float(total) if isinstance(total, int | float) and 0 <= total < float("inf") else None
