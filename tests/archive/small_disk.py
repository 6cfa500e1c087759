"""What happens on a disk that is too small: run by test_full_disk.py in a mount namespace of its own.

    unshare -rm sh -c 'mount -t tmpfs -o size=4m tmpfs DISK && exec python small_disk.py CASE DISK PLACE'

PLACE has room. The last line of stdout is what was seen, as JSON.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from overnight.adapters.directory import DirectoryArchives
from overnight.archive import Part, pack, unpack

FIRST, SECOND = "claude-code/s/a.1.zip", "claude-code/s/b.1.zip"
Seen = Mapping[str, object]


def files(root: Path) -> dict[str, int]:
    """The size of every file, directories without their slash as -1."""
    return {
        path.relative_to(root).as_posix(): -1 if path.is_dir() else path.stat().st_size
        for path in sorted(root.rglob("*"))
    }


def attempt(disk: Path, work: Callable[[], object]) -> Seen:
    before = files(disk)
    try:
        work()
    except OSError as error:
        return {"errno": error.errno, "message": str(error), "before": before, "after": files(disk)}
    return {"errno": None, "before": before, "after": files(disk)}


def unpacking(disk: Path, place: Path) -> Seen:
    """Another workspace is there already, and an empty directory where this one shall be."""
    unpack(place / "small.zip", {"": disk / "other"})
    (disk / "target").mkdir()
    again = attempt(disk, lambda: unpack(place / "large.zip", {"": disk / "target"}))
    unpack(place / "small.zip", {"": disk / "target"})
    return again


def packing(disk: Path, place: Path) -> Seen:
    """Over an older archive and its record."""
    target, record = disk / "a.zip", disk / "a.record"
    pack([Part(place / "small", "")], target, record=record)
    old = (target.read_bytes(), record.read_bytes())
    seen = attempt(disk, lambda: pack([Part(place / "large", "")], target, record=record))
    return {**seen, "kept": (target.read_bytes(), record.read_bytes()) == old}


def storing(disk: Path, place: Path) -> Seen:
    """From another file system, so that it has to be copied; an older version and its alias are there."""
    store = DirectoryArchives(disk / "store")
    asyncio.run(store.put(FIRST, place / "small.zip"))
    asyncio.run(store.publish(FIRST, "claude-code/s.zip"))
    seen = attempt(disk, lambda: asyncio.run(store.put(SECOND, place / "large.zip")))
    fetched = asyncio.run(store.fetch(FIRST, place / "fetched.zip"))
    return {**seen, "kept": fetched.size, "source": (place / "large.zip").exists()}


def fetching(disk: Path, place: Path) -> Seen:
    """Onto the small disk, over an older file."""
    store = DirectoryArchives(place / "store")
    asyncio.run(store.put(FIRST, place / "large.zip"))
    (disk / "target.zip").write_bytes(b"old")
    seen = attempt(disk, lambda: asyncio.run(store.fetch(FIRST, disk / "target.zip")))
    return {**seen, "kept": (disk / "target.zip").read_bytes().decode()}


def commanding(disk: Path, place: Path) -> Seen:
    """What the command line says."""
    overnight = Path(sys.executable).with_name("overnight")
    commands: list[list[str | Path]] = [
        [overnight, "archive", "unpack", place / "large.zip", disk / "target"],
        [overnight, "archive", "pack", place / "large", disk / "a.zip"],
    ]
    runs = [subprocess.run(command, capture_output=True, text=True, check=False) for command in commands]
    return {
        "said": [run.stderr for run in runs],
        "codes": [run.returncode for run in runs],
        "after": files(disk),
    }


CASES = {case.__name__: case for case in (unpacking, packing, storing, fetching, commanding)}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
