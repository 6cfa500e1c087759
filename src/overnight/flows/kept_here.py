"""What this machine keeps of sessions outside the archive store; an erasure deletes it too.

Below the data directory: `unsaved/{session_id}.{job_id}.{attempt}/`, a workspace that could not be stored, and
`warm/{session_id}/`, one that waits for the session's next job.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from overnight.archive import remove_tree
from overnight.domain.ids import InvalidId, parse_uuid
from overnight.flows.unsaved import held, once_free


class KeptHere:
    def __init__(self, data: Path) -> None:
        self._places = (data / "unsaved", data / "warm")

    async def sessions(self) -> set[str]:
        """Ids of the sessions of which anything is kept."""
        return await asyncio.to_thread(lambda: {session_id for session_id, _ in self._found()})

    async def delete(self, session_id: str) -> None:
        """Delete all that is kept of a session. Raises OSError; then it can be called again."""
        await once_free(lambda: self._delete(session_id))

    def _delete(self, session_id: str) -> None:
        for found, path in list(self._found()):
            if found == session_id:
                _remove(path)

    def _found(self) -> Iterator[tuple[str, Path]]:
        """Names that do not begin with a session's id are not ours to delete."""
        for place in self._places:
            for path in place.iterdir() if place.is_dir() else ():
                try:
                    yield parse_uuid(path.name.partition(".")[0]), path
                except InvalidId:
                    continue


def _remove(path: Path) -> None:
    """Raises InUse while someone stores it."""
    with contextlib.ExitStack() as holding:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            holding.enter_context(held(path))
        remove_tree(path)
