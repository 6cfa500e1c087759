import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.archive.workspaces import Workspace

Snapshot = Mapping[bytes, tuple[str, int, int, bytes]]


@pytest.fixture
def snapshot() -> Callable[[Path], Snapshot]:
    """What a tree is: name -> (kind, mode, mtime in 100 ns, content or target), read without following."""
    return _snapshot


def _snapshot(root: Path) -> Snapshot:
    found: dict[bytes, tuple[str, int, int, bytes]] = {}
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        for child in os.scandir(os.path.join(os.fsencode(root), below)):  # noqa: PTH118 - bytes paths
            name = os.path.join(below, child.name)  # noqa: PTH118 - bytes paths
            status = child.stat(follow_symlinks=False)
            kind, content = "other", b""
            if child.is_symlink():
                kind, content = "link", os.readlink(child.path)  # noqa: PTH115 - bytes paths
            elif child.is_dir():
                kind = "directory"
                waiting.append(name)
            elif child.is_file():
                kind, content = "file", Path(os.fsdecode(child.path)).read_bytes()
            found[name] = (kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns // 100, content)
    return found


@pytest.fixture
def forge(tmp_path: Path) -> Callable[..., Path]:
    """Makes a zip as a stranger might: any name, any mode field, with the standard library's writer."""

    def make(*entries: tuple[str, bytes] | tuple[str, bytes, int], method: int = zipfile.ZIP_STORED) -> Path:
        target = tmp_path / "forged.zip"
        with zipfile.ZipFile(target, "w", method) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # duplicate names: that is the point
            for name, content, *mode in entries:
                info = zipfile.ZipInfo("placeholder")
                info.filename = name
                info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
                info.create_system = 3
                archive.writestr(info, content, method)
        return target

    return make


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)
