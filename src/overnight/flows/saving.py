"""One archive on its way into the store: packed once, sent while it is packed, tried again until it is there."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.archive import Packed, Scan, pack, scan
from overnight.archive.record import load
from overnight.domain.job import ArchiveRef, Origin
from overnight.domain.redaction import Redactor
from overnight.flows.growth import GrowingFile
from overnight.flows.places import Baseline, parts_of, workspace_at
from overnight.ports import ArchiveStore, StoredArchive
from overnight.threads import to_its_end

NOT_SCANNED = Scan(found=(), found_total=0, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """`conversation`: the archive has one, so the session's next job knows what was said."""

    archive: ArchiveRef
    packed: Packed
    scan: Scan
    conversation: bool


class SecretsInArchive(Exception):
    """Secrets are in what would be stored, and the operator wants none there."""

    def __init__(self, scan: Scan) -> None:
        super().__init__(f"{scan.found_total} findings")
        self.scan = scan


class Abandoned(OSError):
    """The pack was called off half-way; nothing of it is visible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How archives are made here. `redactor` knows the secrets that they are looked through for."""

    archives: ArchiveStore
    exclude: tuple[str, ...]
    redactor: Redactor
    refuse_secrets: bool


class Saving:
    """The archive `name` of the attempt's tree at `root`, with `entries` beside it.

    `settled`: every process of the run is dead, so what was looked at cannot change any more.
    """

    def __init__(
        self, packing: Packing, root: Path, name: str, entries: Mapping[str, bytes], *, settled: bool
    ) -> None:
        self._packing = packing
        self._root = root
        self._baseline = Baseline(root)
        self._name = name
        self._entries = entries
        self._settled = settled
        self._packed: tuple[Packed, Scan] | None = None
        self._conversation = False

    async def store(self) -> Saved:
        """After an OSError call it again: what was packed is sent again, and not packed again.

        A cancelled call leaves nothing visible and no thread behind. Raises OSError, SecretsInArchive,
        ArchiveRefused, ArchiveConflict.
        """
        stored = await self._send() if self._packed else await self._pack_and_send()
        assert self._packed is not None
        packed, scanned = self._packed
        archive = ArchiveRef(name=stored.name, size=stored.size, sha256=stored.sha256, origin=Origin.RUN)
        return Saved(archive=archive, packed=packed, scan=scanned, conversation=self._conversation)

    async def adopt(self) -> None:
        """The next pack of the tree builds on this one."""
        await asyncio.to_thread(self._baseline.adopt)

    async def _pack_and_send(self) -> StoredArchive:
        await asyncio.to_thread(self._begin)
        growth = GrowingFile()
        sending = asyncio.ensure_future(self._send(growth))
        try:
            self._packed = await to_its_end(lambda called_off: self._pack(growth, called_off))
        except BaseException:  # a cancel too: nothing may become visible, and no upload may go on
            growth.fail(Abandoned("the archive was not finished"))
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            raise
        growth.finish(self._packed[0].size)  # Not before the scan: until then nothing becomes visible.
        return await sending

    async def _send(self, growth: GrowingFile | None = None) -> StoredArchive:
        source = await asyncio.to_thread(self._lend)
        return await self._packing.archives.put(self._name, source, growth=growth)

    def _begin(self) -> None:
        self._baseline.directory.mkdir(mode=0o700, exist_ok=True)  # An older version made none.
        self._baseline.clear()
        self._baseline.packing.touch(mode=0o600)

    def _lend(self) -> Path:
        """Where there are no hard links the store gets our only name, and the next pack has no base."""
        sending = self._baseline.sending
        sending.unlink(missing_ok=True)
        try:
            os.link(self._baseline.packing, sending)
        except FileNotFoundError:
            raise
        except OSError:
            return self._baseline.packing
        return sending

    def _pack(self, growth: GrowingFile, called_off: threading.Event) -> tuple[Packed, Scan]:
        def wrote(size: int) -> None:
            if called_off.is_set():
                raise Abandoned("the pack was called off")
            growth.wrote(size)

        parts = parts_of(workspace_at(self._root))
        self._conversation = len(parts) > 1
        with self._baseline.packing.open("wb", buffering=0) as file:
            packed = pack(
                parts,
                file,
                entries=self._entries,
                exclude=self._packing.exclude,
                base=self._baseline.base,
                record=self._baseline.packing_record,
                settled=self._settled,
                wrote=wrote,
            )
        return packed, self._scanned(called_off)

    def _scanned(self, called_off: threading.Event) -> Scan:
        """Raises SecretsInArchive if they are not to be stored.

        A checkpoint is else not looked through: the last archive of the run is, for all that the session's
        archive did not have. If secrets are refused all of it is: the archives before may have been made when
        they were not. Then nothing is passed over either, however long it takes.
        """
        packing, baseline = self._packing, self._baseline
        if not (self._settled or packing.refuse_secrets):
            return NOT_SCANNED
        names = fresh_names(baseline.session_record, baseline.packing_record)
        if self._settled and packing.refuse_secrets:
            names = None

        def count(text: str) -> Counter[str]:
            if called_off.is_set():
                raise Abandoned("the scan was called off")
            return packing.redactor.count(text)

        scanned = scan(baseline.packing, count, names=names, all_of_it=packing.refuse_secrets)
        if scanned.found and packing.refuse_secrets:
            raise SecretsInArchive(scanned)
        return scanned


def fresh_names(before: Path, after: Path) -> set[str] | None:
    """What the second record has and the first has not, or has differently; None: there is no first one."""
    old, new = load(before), load(after)
    if old is None or new is None:
        return None
    return {os.fsdecode(name) for name in new.changed_since(old)}
