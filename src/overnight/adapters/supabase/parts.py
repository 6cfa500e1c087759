"""One file sent in parts, each from where the server is."""

import contextlib
import logging
from collections.abc import Callable

import httpx

from overnight.adapters.supabase.faults import Fault, StorageFault
from overnight.adapters.supabase.notes import Note, Notepad
from overnight.adapters.supabase.patience import Patience, Unreachable, passes, unreachable
from overnight.adapters.supabase.resumable import CHUNK, Resumable, Standing
from overnight.adapters.supabase.source import Source
from overnight.ports import ArchiveTooLarge, Growth

log = logging.getLogger(__name__)

STARTS = 3
"""How often an upload is begun that the server has forgotten. It keeps one for a day."""


class _Forgotten(Exception):
    """The server no longer knows the upload."""


class Parts:
    """The note on `pad` says, before any part goes out, what the server can have of the file afterwards."""

    def __init__(
        self,
        resumable: Resumable,
        patience: Patience,
        *,
        source: Source,
        growth: Growth,
        pad: Notepad,
        largest: int | None,
    ) -> None:
        self._resumable = resumable
        self._patience = patience
        self._source = source
        self._growth = growth
        self._pad = pad
        self._largest = largest
        self._upload: str | None = None

    async def send(self, new_key: Callable[[], str], *, deferred: bool) -> tuple[str, int]:
        """(key that the bytes lie under, size). Raises what Upload does."""
        begun = await self._earlier()
        for _ in range(STARTS):
            note, standing = begun or await self._begin(new_key(), deferred=deferred)
            self._upload = note.upload
            try:
                return note.incoming, await self._rest(note, standing)
            except _Forgotten:
                log.warning("an unfinished upload was forgotten by the server: it begins anew")
                begun = None
        raise Unreachable("Supabase Storage has forgotten one upload after another.")

    async def _earlier(self) -> tuple[Note, Standing] | None:
        """An upload of these same bytes that was broken off, by whichever process."""
        note = self._pad.read()
        if note is None:
            return None
        written, _ = await self._written(note.covered - 1)
        if written < note.covered or await self._source.sha256(note.covered) != note.sha256:
            return None
        try:
            standing = await self._resumable.standing(note.upload)
        except StorageFault as error:
            if error.fault is not Fault.GONE:
                raise
            return None
        log.info("an upload goes on after %d bytes", standing.offset)
        return note, standing

    async def _begin(self, key: str, *, deferred: bool) -> tuple[Note, Standing]:
        length = None if deferred else (await self._written(0))[0]
        upload = await self._resumable.create(key, length=length)
        note = Note(upload=upload, incoming=key, covered=0, sha256=await self._source.sha256(0))
        return note, Standing(offset=0, length=length)

    async def _rest(self, note: Note, standing: Standing) -> int:
        failures = 0
        while True:
            # More than a whole part, or all: so the last part, which tells the length, is never empty.
            written, done = await self._written(standing.offset + CHUNK)
            if done and standing == Standing(offset=written, length=written):
                return written
            try:
                standing = await self._part(note, standing, written, done=done)
                failures = 0
            except (httpx.TransportError, StorageFault) as error:
                await self._pause_after(error, failures)
                reached, standing = standing.offset, await self._standing(note.upload)
                failures = 0 if standing.offset > reached else failures + 1

    async def _part(self, note: Note, standing: Standing, written: int, *, done: bool) -> Standing:
        offset, length = standing.offset, standing.length
        size = min(CHUNK, written - offset)
        if size < 0:
            raise _Forgotten  # the file is shorter than what the server has of it: it is another one
        covered = max(note.covered, offset + size)
        self._pad.write(
            Note(
                upload=note.upload,
                incoming=note.incoming,
                covered=covered,
                sha256=await self._source.sha256(covered),
            )
        )
        tell = written if done and length is None else None
        body = self._source.blocks(offset, size)
        reached = await self._resumable.send(note.upload, offset, size, body, length=tell)
        return Standing(offset=reached, length=length if tell is None else tell)

    async def _pause_after(self, error: httpx.TransportError | StorageFault, failures: int) -> None:
        """Raises the error if it does not pass. An offset that is not the server's is put right by asking."""
        fault = error.fault if isinstance(error, StorageFault) else None
        if fault is Fault.GONE:
            raise _Forgotten
        if not passes(error) and fault is not Fault.TAKEN:
            raise error
        if failures == len(self._patience.delays):
            raise unreachable(error) from error
        await self._patience.wait(self._patience.delays[failures])

    async def _standing(self, upload: str) -> Standing:
        try:
            return await self._resumable.standing(upload)
        except StorageFault as error:
            if error.fault is Fault.GONE:
                raise _Forgotten from error
            raise

    async def _written(self, size: int) -> tuple[int, bool]:
        """As `growth` has it; if the file is void or too large, what the server has of it is given up."""
        try:
            return self._bounded(*await self._growth.beyond(size))
        except Exception:  # whatever it was goes on to the caller; first the upload is given up
            await self._give_up()
            raise

    def _bounded(self, written: int, done: bool) -> tuple[int, bool]:
        if self._largest is not None and written > self._largest:
            raise ArchiveTooLarge(self._largest)
        return written, done

    async def _give_up(self) -> None:
        self._pad.clear()
        if self._upload is not None:
            with contextlib.suppress(StorageFault, httpx.TransportError):  # it expires by itself
                await self._resumable.abandon(self._upload)
