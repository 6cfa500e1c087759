"""Bringing a file into the bucket, under a key that nobody else uses, while it may still be written."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from overnight.adapters.supabase.access import INCOMING
from overnight.adapters.supabase.connection import Connection
from overnight.adapters.supabase.faults import Fault, StorageFault
from overnight.adapters.supabase.notes import Notepad, notepad
from overnight.adapters.supabase.objects import Objects
from overnight.adapters.supabase.parts import Parts
from overnight.adapters.supabase.patience import Unreachable
from overnight.adapters.supabase.resumable import Offer, Resumable
from overnight.adapters.supabase.source import Source
from overnight.ports import ArchiveDenied, ArchiveTooLarge, Growth, whole

log = logging.getLogger(__name__)

SMALL = 6 * 1000 * 1000
"""Up to here one plain request (facts: supabase 4)."""


class Written:
    """The Growth of a file that is all there."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def beyond(self, _: int) -> tuple[int, bool]:
        return self._size, True


class _Incomplete(Unreachable):
    """All was sent, and the server does not have it."""

    def __init__(self) -> None:
        super().__init__("Supabase Storage has not kept what was uploaded to it.")


class Upload:
    """Raises ArchiveTooLarge, StorageFault, OSError, and what `growth` raises."""

    def __init__(self, connection: Connection, offer: Offer, notes: Path, source: Source) -> None:
        self._connection = connection
        self._objects = Objects(connection)
        self._offer = offer
        self._notes = notes
        self._source = source

    @asynccontextmanager
    async def towards(self, key: str, growth: Growth | None) -> AsyncIterator[tuple[str, int]]:
        """(key that the bytes lie under, size). The block moves them to `key`: until that is done, also if it fails,
        another call with the same bytes goes on from them."""
        if not self._offer.deferred:
            await whole(growth)
            growth = None
        growing = growth or Written(self._source.size)
        size, done = await growing.beyond(SMALL)
        self._check(size)
        if done and size <= SMALL:
            yield await self._in_one(size)
            return
        with notepad(self._notes, key) as pad:
            yield await self._in_parts(pad, growing, done=done)
            pad.clear()

    async def _in_one(self, size: int) -> tuple[str, int]:
        incoming, sha256 = self._new_key(), await self._source.sha256(size)
        await self._connection.patience.over(
            lambda: self._objects.create(incoming, size, self._source.blocks(0, size), sha256)
        )
        return await self._verified(incoming, size)

    async def _in_parts(self, pad: Notepad, growth: Growth, *, done: bool) -> tuple[str, int]:
        try:
            return await self._verified(
                *await self._parts(pad, growth).send(self._new_key, deferred=not done)
            )
        except _Incomplete:
            pad.clear()
        log.warning("an upload did not arrive whole: the archive is sent once more, with its length ahead")
        await whole(growth)
        parts = self._parts(pad, Written(self._source.size))
        return await self._verified(*await parts.send(self._new_key, deferred=False))

    def _parts(self, pad: Notepad, growth: Growth) -> Parts:
        return Parts(
            Resumable(self._connection),
            self._connection.patience,
            source=self._source,
            growth=growth,
            pad=pad,
            largest=self._offer.largest,
        )

    async def _verified(self, incoming: str, size: int) -> tuple[str, int]:
        """An upload is answered with a name and no more: only asking for the object tells what arrived."""
        try:
            info = await self._objects.info(incoming)
        except StorageFault as error:
            if error.fault is Fault.MISSING and size <= SMALL:
                raise ArchiveDenied(_UNREADABLE) from None
            if error.fault is Fault.MISSING:
                raise _Incomplete from None
            raise
        if info.size != size or (info.md5 is not None and info.md5 != await self._source.md5(size)):
            raise _Incomplete
        return incoming, size

    def _check(self, size: int) -> None:
        if self._offer.largest is not None and size > self._offer.largest:
            raise ArchiveTooLarge(self._offer.largest)

    def _new_key(self) -> str:
        return f"{self._connection.access.prefix}/{INCOMING}/{self._connection.nonce()}.zip"


_UNREADABLE = (
    "Supabase Storage took an archive, but does not let its key read it back. Nothing points at the archive. "
    "Use a secret key, or give the key the right to select (`overnight doctor` prints the SQL)."
)
