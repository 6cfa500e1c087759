"""Where a listing of sessions goes on, as an opaque text."""

import math

from overnight.domain.ids import parse_uuid
from overnight.domain.job import Session


def session_cursor(session: Session) -> str:
    return f"{session.created_at!r}:{session.session_id}"


def parse_session_cursor(cursor: str) -> tuple[float, str]:
    """The `created_at` and `session_id` of the last session that was listed. Raises ValueError."""
    created_at, _, session_id = cursor.partition(":")
    time = float(created_at)
    if not math.isfinite(time):
        raise ValueError("not a cursor")
    return time, parse_uuid(session_id)
