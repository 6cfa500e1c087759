"""The slow repairs: erasures that were cut off, what is left of sessions that are gone, old archives. Idempotent.

They wait for the archive store, which may be far away, so they have a loop of their own beside the sweep.
"""

import logging
from dataclasses import dataclass

from overnight.domain.errors import SessionNotFound
from overnight.flows.kept_here import KeptHere
from overnight.flows.retention import Retention
from overnight.flows.sessions import finish_erasing
from overnight.ports import ArchiveStore, JobIndex, JobStore

log = logging.getLogger(__name__)

SESSIONS_AT_ONCE = 20


@dataclass(slots=True, kw_only=True)
class Housekeeping:
    """`cursor` is where the walk over all sessions goes on next time; None: at the newest.

    Not `walks`: there is no list of them, as at an edge. A session is tidied at the end of its jobs alone then.
    """

    store: JobStore
    index: JobIndex
    archives: ArchiveStore
    kept: KeptHere
    retention: Retention
    walks: bool = True
    cursor: str | None = None

    async def once(self) -> None:
        await self._finish_erasures()
        await self._delete_what_is_kept_of_the_gone()
        if self.walks:
            await self._tidy_some_sessions()

    async def _finish_erasures(self) -> None:
        for session_id in await self.index.erasing():
            try:
                await finish_erasing(session_id, store=self.store, archives=self.archives, kept=self.kept)
            except OSError:
                log.exception("session %s is not erased yet; it is tried again", session_id)

    async def _delete_what_is_kept_of_the_gone(self) -> None:
        """They were erased through another machine, or while a worker was about to keep something."""
        for session_id in await self.kept.sessions():
            try:
                await self.store.session(session_id)
            except SessionNotFound:
                await self._delete_kept(session_id)

    async def _delete_kept(self, session_id: str) -> None:
        try:
            await self.kept.delete(session_id)
        except OSError:
            log.exception("what is kept of session %s cannot be deleted yet; it is tried again", session_id)

    async def _tidy_some_sessions(self) -> None:
        page = await self.index.sessions(limit=SESSIONS_AT_ONCE, before=self.cursor)
        for session in page.rows:
            await self.retention.tidy(session.session_id)
        self.cursor = page.next
