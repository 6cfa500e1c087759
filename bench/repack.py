"""Packing again after a small change, and asking whether anything changed at all."""

import shutil
from pathlib import Path

from bench.packers import OURS, STDLIB, WALK, pack_tree, pack_with_stdlib, run, walk
from bench.rounds import Contender, Target, report, take_turns
from bench.trees import MB, change

from overnight.archive import Base, Packed, Part, pack, unchanged

FULL = "overnight, in full"
NEW_BYTES = "overnight, only what is new"
RESTIC = "restic backup"
ZIP = "zip -FS -1"
NEW_FILE_TARGETS = {"S": 12.0, "M": 12.0, "L": 15.0}
NEW_BYTES_TARGET = 40.0
MOST_CPU_OF_WALK = 3.0


class Nowhere:
    """Takes all and keeps nothing, as an upload by part copy keeps what is copied on the server's side."""

    def write(self, data: bytes, /) -> None:
        pass

    def copy(self, offset: int, length: int, /) -> None:
        pass


class Repacking:
    """Each round packs upon the archive of the round before."""

    def __init__(self, tree: Path, place: Path) -> None:
        self._parts = [Part(tree, "")]
        self._place = place
        self._number = 0
        self.packed = pack(self._parts, self.base().archive, exclude=(), record=self.base().record)

    def base(self) -> Base:
        return Base(self._place / f"{self._number}.zip", self._place / f"{self._number}.record")

    def to_file(self, _: Path) -> None:
        before = self.base()
        self._number += 1
        after = self.base()
        self.packed = pack(self._parts, after.archive, exclude=(), base=before, record=after.record)
        before.archive.unlink()

    def to_nowhere(self, _: Path) -> Packed:
        return pack(self._parts, Nowhere(), exclude=(), base=self.base(), record=self._place / "next.record")


def bench_repack(plan: str, tree: Path, rounds: int, place: Path) -> None:
    """4 files grow by 300 bytes, one of 3 kB is new, and the transcript by 50 kB, before each round."""
    files, nowhere = place / "files", place / "nowhere"
    files.mkdir()
    nowhere.mkdir()
    ours, apart = Repacking(tree, files), Repacking(tree, nowhere)
    contenders: dict[str, Contender] = {
        STDLIB: lambda fresh: pack_with_stdlib(tree, fresh / "a.zip"),
        FULL: lambda fresh: pack_tree(tree, fresh / "a.zip"),
        OURS: ours.to_file,
        NEW_BYTES: apart.to_nowhere,
        WALK: lambda _: sum(1 for _ in walk(tree)),
        **_tools(tree, place),
    }

    def prepare(number: int) -> None:
        apart.to_file(place)  # so that both have one change to pack
        change(tree, number)

    taken = take_turns(contenders, rounds, place, prepare)
    notes = {OURS: f"{ours.packed.fresh_bytes / MB:.1f} of {ours.packed.size / MB:.1f} MB new"}
    fresh = apart.to_nowhere(place)
    notes[NEW_BYTES] = f"{fresh.fresh_bytes / MB:.1f} MB handed over"
    targets = [
        Target(OURS, STDLIB, least=NEW_FILE_TARGETS[plan]),
        Target(OURS, WALK, most=MOST_CPU_OF_WALK, of="cpu"),
        *[Target(OURS, name, least=1.0) for name in (RESTIC, ZIP) if name in contenders],
    ]
    if plan == "L":
        targets.append(Target(NEW_BYTES, STDLIB, least=NEW_BYTES_TARGET))
    report(taken, STDLIB, targets, notes)


def _tools(tree: Path, place: Path) -> dict[str, Contender]:
    """Each after its first full run: what is measured is the second one."""
    tools: dict[str, Contender] = {}
    if shutil.which("restic"):
        password = place / "password"
        password.write_text("bench")
        restic: list[str | Path] = [
            "restic",
            "-q",
            "-r",
            place / "restic",
            "--cache-dir",
            place / "cache",
            "-p",
            password,
        ]
        run(*restic, "init")
        run(*restic, "backup", tree)
        tools[RESTIC] = lambda _: run(*restic, "backup", tree)
    if shutil.which("zip"):
        command: list[str | Path] = ["zip", "-q", "-FS", "-r", "-y", "-1", place / "tool.zip", "."]
        run(*command, cwd=tree)
        tools[ZIP] = lambda _: run(*command, cwd=tree)
    return tools


def bench_warm(_: str, tree: Path, rounds: int, place: Path) -> None:
    """Whether a kept workspace is still what its archive holds."""
    parts, record = [Part(tree, "")], place / "record"
    pack(parts, place / "tree.zip", exclude=(), record=record)

    def ask(_: Path) -> None:
        assert unchanged(record, parts, exclude=())

    contenders: dict[str, Contender] = {WALK: lambda _: sum(1 for _ in walk(tree)), OURS: ask}
    report(take_turns(contenders, rounds, place), WALK, [Target(OURS, WALK, most=1.5)], {})
