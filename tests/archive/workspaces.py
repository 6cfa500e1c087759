"""A tree that is packed again and again, and what another reader finds in its archives."""

import os
import zipfile
from pathlib import Path

from overnight.archive import Base, Check, Packed, Part, pack, unpack

MIB = 1 << 20


class Workspace:
    """A tree with its last archive and record."""

    def __init__(self, place: Path) -> None:
        self.tree = place / "tree"
        self.tree.mkdir(exist_ok=True)
        self.parts = [Part(self.tree, "")]
        self._place = place
        self._number = 0

    @property
    def archive(self) -> Path:
        return self._place / f"{self._number}.zip"

    @property
    def record(self) -> Path:
        return self._place / f"{self._number}.record"

    def base(self) -> Base | None:
        return Base(self.archive, self.record) if self._number else None

    def pack(self, *, base: bool = True, check: Check = Check.STATUS, settled: bool = True) -> Packed:
        before = self.base() if base else None
        self._number += 1
        return pack(
            self.parts,
            self.archive,
            base=before,
            record=self.record,
            check=check,
            settled=settled,
            exclude=(),
        )

    def restored(self) -> Path:
        target = self._place / f"restored-{self._number}"
        unpack(self.archive, {"": target})
        return target


def contents(path: Path) -> dict[str, tuple[int, tuple[int, ...], int, bytes]]:
    """What the standard library reads; it also checks every checksum."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {
            info.filename: (info.external_attr, info.date_time, info.file_size, archive.read(info))
            for info in archive.infolist()
        }


def has_no_dead_bytes(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        at = 0
        for info in infos:
            assert info.header_offset == at
            with path.open("rb") as file:
                file.seek(at + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in "ne")
            at += 30 + name + extra + info.compress_size + 16 * bool(info.flag_bits & 8)
        return at == archive.start_dir


def transcript_line(number: int) -> bytes:
    return b'{"uuid": "%d", "text": "' % number + os.urandom(200).hex().encode() + b'"}\n'
