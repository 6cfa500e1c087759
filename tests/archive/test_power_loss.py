"""The power fails at any moment while the directory store writes: what it promised is there, nothing is half.

A real process runs the store under strace. From its trace follows what a disk may hold after each system
call: content is sure only once the file was synced, a name only once its directory was, and whatever is not
sure may be there or not, each on its own. Every such disk is made, and a new store is opened on it.
"""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from overnight.adapters.directory import DirectoryArchives
from overnight.ports import ListedArchive

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

FIRST, SECOND, ALIAS = "claude-code/s/a.1.zip", "claude-code/s/b.1.zip", "claude-code/s.zip"
ONE, TWO = b"first archive " * 20, b"second archive " * 20
STEPS = [
    ("put", FIRST, ONE),
    ("publish", FIRST, b""),
    ("put", SECOND, TWO),
    ("publish", SECOND, b""),
    ("delete", FIRST, b""),
]
VISIBLE: list[dict[str, bytes]] = [
    {},
    {FIRST: ONE},
    {FIRST: ONE, ALIAS: ONE},
    {FIRST: ONE, ALIAS: ONE, SECOND: TWO},
    {FIRST: ONE, ALIAS: TWO, SECOND: TWO},
    {ALIAS: TWO, SECOND: TWO},
]
"""What a reader sees before the first step, and after each."""

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from overnight.adapters.directory import DirectoryArchives

async def main(root, steps):
    store = DirectoryArchives(root / "store")
    for call, name, content in steps:
        if call == "put":
            (root / "source").write_bytes(content)
            await store.put(name, root / "source")
        elif call == "publish":
            await store.publish(name, "claude-code/s.zip")
        else:
            await store.delete(name)
        os.write(1, b"returned")

asyncio.run(main(Path(sys.argv[1]), eval(sys.argv[2])))
"""
TRACED = (
    "openat,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,"
    "write,pwrite64,ftruncate,copy_file_range,sendfile,fsync,fdatasync"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded: its name, the paths it was given (whole), the bytes written, its flags."""

    name: str
    paths: list[str]
    data: bytes
    text: str


@dataclass(slots=True)
class Inode:
    content: bytes = b""
    synced: bytes | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a name: `node` takes it (None is a directory), or it goes; a rename also frees `old`."""

    path: str
    node: Inode | None
    gone: bool = False
    old: str | None = None


@dataclass(slots=True)
class Disk:
    """What programs see (`names`), and how much of it would outlive a power cut."""

    root: str
    names: dict[str, Inode | None] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    sure: set[int] = field(default_factory=set)

    def apply(self, call: Call) -> None:
        if call.name in {"fsync", "fdatasync"}:
            self._sync(call.paths[0])
        elif call.name in {"write", "pwrite64"}:
            node = self.names.get(call.paths[0])
            if node is not None:
                node.content += call.data
        elif call.name == "openat":
            if "O_CREAT" in call.text and call.paths[-1] not in self.names:
                self._change(Change(call.paths[-1], Inode()))
        elif call.name.startswith("mkdir"):
            self._change(Change(call.paths[-1], None))
        elif call.name.startswith("link"):
            self._change(Change(call.paths[-1], self.names[call.paths[-2]]))
        elif call.name.startswith("rename"):
            old, new = call.paths[-2:]
            self._change(Change(new, self.names[old], old=old))
        elif call.name.startswith(("unlink", "rmdir")):
            self._change(Change(call.paths[-1], None, gone=True))
        else:
            raise AssertionError(f"the model does not know {call.name}")

    def _change(self, change: Change) -> None:
        self.changes.append(change)
        _take_effect(change, self.names)

    def _sync(self, path: str) -> None:
        node = self.names.get(path)
        if node is not None:
            node.synced = node.content
            return
        for number, change in enumerate(self.changes):
            if change.path.rpartition("/")[0] == path:
                self.sure.add(number)

    def after_power_loss(self) -> Iterator[dict[str, bytes | None]]:
        """Every disk to be reckoned with: of the unsure changes none, all, one alone, or all but one."""
        unsure = [number for number in range(len(self.changes)) if number not in self.sure]
        chosen = {frozenset(), frozenset(unsure)}
        chosen |= {frozenset({number}) for number in unsure}
        chosen |= {frozenset(unsure) - {number} for number in unsure}
        for lucky in chosen:
            names: dict[str, Inode | None] = {}
            for number, change in enumerate(self.changes):
                if number in self.sure or number in lucky:
                    _take_effect(change, names)
            for torn in (0, 7):
                reachable = [path for path in names if self._is_reachable(path, names)]
                yield {path.removeprefix(f"{self.root}/"): _content(names[path], torn) for path in reachable}

    def _is_reachable(self, path: str, names: dict[str, Inode | None]) -> bool:
        parents = [str(parent) for parent in Path(path).parents if len(str(parent)) > len(self.root)]
        return path.startswith(f"{self.root}/") and all(
            parent in names and names[parent] is None for parent in parents
        )


def _take_effect(change: Change, names: dict[str, Inode | None]) -> None:
    names.pop(change.old or "", None)
    if change.gone:
        names.pop(change.path, None)
    else:
        names[change.path] = change.node


def _content(node: Inode | None, torn: int) -> bytes | None:
    """None for a directory; of what was never synced, the first `torn` bytes."""
    if node is None:
        return None
    return node.content[:torn] if node.synced is None else node.synced


def traced(root: Path, trace: Path) -> list[Call]:
    arguments = [sys.executable, "-c", PROGRAM, str(root), repr(STEPS)]
    strace = ["strace", "-f", "-y", "-xx", "-s", "4096", "-e", f"trace={TRACED}", "-o", str(trace)]
    subprocess.run([*strace, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=120)
    return list(_calls(trace.read_text().splitlines()))


def _calls(lines: list[str]) -> Iterator[Call]:
    begun: dict[str, str] = {}
    for line in lines:
        process, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>\s?(.*)", text)
        whole = re.match(r"(\w+)\((.*)\)\s+= \d", begun.pop(process) + resumed[1] if resumed else text)
        if whole:
            yield _call(whole[1], whole[2])


def _call(name: str, arguments: str) -> Call:
    """Relative names are joined to the directory descriptor that stands before them."""
    paths: list[str] = []
    for place, quoted in re.findall(r'\w+<((?:\\x[0-9a-f]{2})*)>|"((?:\\x[0-9a-f]{2})*)"', arguments):
        path = _text(quoted or place)
        paths.append(path if place or path.startswith("/") or not paths else f"{paths[-1]}/{path}")
    data = re.search(r'"((?:\\x[0-9a-f]{2})*)"', arguments)
    return Call(name, paths, _bytes(data[1]) if data else b"", arguments)


def _bytes(quoted: str) -> bytes:
    return bytes.fromhex(quoted.replace("\\x", ""))


def _text(quoted: str) -> str:
    return _bytes(quoted).decode(errors="replace")


def disks(calls: list[Call], root: Path) -> Iterator[tuple[int, dict[str, bytes | None]]]:
    """(steps that had returned, what the disk may hold), for a power cut after each call."""
    disk, returned = Disk(str(root)), 0
    for call in calls:
        if call.data == b"returned":
            returned += 1
        elif any(path.startswith(str(root)) for path in call.paths):
            disk.apply(call)
        else:
            continue
        for held in disk.after_power_loss():
            yield returned, held


def seen(root: Path, scratch: Path) -> dict[str, bytes]:
    """What a new store shows; whatever it lists, it must hand out."""
    store = DirectoryArchives(root / "store")
    visible = {}
    for archive in asyncio.run(_listing(store)):
        asyncio.run(_fetch(store, archive.name, scratch))
        visible[archive.name] = scratch.read_bytes()
    return visible


async def _listing(store: DirectoryArchives) -> Sequence[ListedArchive]:
    return await store.listing("")


async def _fetch(store: DirectoryArchives, name: str, target: Path) -> None:
    await store.fetch(name, target)


async def once_more(root: Path, scratch: Path, step: int) -> None:
    """The step that was cut off. `scratch` holds what it puts."""
    store = DirectoryArchives(root / "store")
    call, name, _ = STEPS[step]
    if call == "put":
        await store.put(name, scratch)
    elif call == "publish":
        await store.publish(name, ALIAS)
    else:
        await store.delete(name)


@pytest.fixture(scope="module")
def after_power_loss(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, dict[str, bytes | None]]]:
    """Each different disk once."""
    place = tmp_path_factory.mktemp("traced")
    root = place / "root"
    root.mkdir()
    different = {}
    for returned, held in disks(traced(root, place / "trace"), root):
        different[returned, tuple(sorted(held.items()))] = (returned, held)
    return list(different.values())


def test_what_was_promised_is_there_and_nothing_is_half(
    after_power_loss: list[tuple[int, dict[str, bytes | None]]], tmp_path: Path
) -> None:
    assert len(after_power_loss) > 100
    for number, (returned, held) in enumerate(after_power_loss):
        root, scratch = tmp_path / str(number), tmp_path / "scratch"
        root.mkdir()
        for path, content in sorted(held.items()):
            place = root / path
            if content is None:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.write_bytes(content)
        allowed = VISIBLE[returned : returned + 2]
        assert seen(root, scratch) in allowed, f"disk {number}, {returned} steps had returned: {held}"
        assert not list((root / "store").glob("claude-code/**/*.part")), (
            f"disk {number} has what nobody deletes"
        )
        if returned < len(STEPS):
            scratch.write_bytes(STEPS[returned][2])
            asyncio.run(once_more(root, scratch, returned))
            assert seen(root, scratch) == VISIBLE[returned + 1], f"disk {number} does not go on"
