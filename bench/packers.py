"""What the archive benches compare: the engine, the standard library, and programs that people have."""

import os
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from overnight.archive import Part, pack

OURS = "overnight"
STDLIB = "stdlib zipfile, level 6"
EXTRACT_ALL = "ZipFile.extractall"
COPY = "cp -a"
WALK = "bare walk with lstat"


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below the root with its lstat, and nothing read: the least that any packer does."""
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as listing:
            for child in listing:
                status = child.stat(follow_symlinks=False)
                yield child.path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(child.path)


def pack_with_stdlib(tree: Path, target: Path) -> None:
    """Fed by our own walk; links are stored as links, since `write` would store what they lead to."""
    cut = len(str(tree)) + 1
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path, status in walk(tree):
            if stat.S_ISLNK(status.st_mode):
                link = zipfile.ZipInfo(path[cut:])
                link.create_system, link.external_attr = 3, status.st_mode << 16
                archive.writestr(link, os.readlink(path))  # noqa: PTH115 - paths are text here, as in `walk`
            else:
                archive.write(path, path[cut:])


def pack_tree(tree: Path, target: Path) -> None:
    pack([Part(tree, "")], target, exclude=())


def extract_all(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target)


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
