"""What only a directory can promise: checksums that other tools read, no rests, damage found."""

import asyncio
import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.directory import DirectoryArchives
from overnight.settings import load
from overnight.wiring.archives import opened_archives

NAME = "claude-code/session/job.1.zip"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that holds one archive and its alias."""
    (tmp_path / "made").write_bytes(b"archive" * 1000)
    store = DirectoryArchives(tmp_path / "store")
    asyncio.run(store.put(NAME, tmp_path / "made"))
    asyncio.run(store.publish(NAME, "claude-code/session.zip"))
    return tmp_path / "store"


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_nothing_but_the_archive_its_record_and_its_alias_remains(root: Path, tmp_path: Path) -> None:
    assert files(root) == [
        "claude-code/session.zip",
        "claude-code/session/.job.1.zip.sha256",
        "claude-code/session/job.1.zip",
    ]
    assert list(tmp_path.iterdir()) == [root]


def test_the_alias_costs_no_second_copy(root: Path) -> None:
    assert (root / NAME).samefile(root / "claude-code/session.zip")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_can_check_the_store(root: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", ".job.1.zip.sha256"], cwd=(root / NAME).parent, check=False)
    assert done.returncode == 0


def test_an_archive_that_rotted_is_not_handed_out(root: Path, tmp_path: Path) -> None:
    with (root / NAME).open("r+b") as file:
        file.write(b"X")
    with pytest.raises(OSError, match="checksum"):
        asyncio.run(DirectoryArchives(root).fetch(NAME, tmp_path / "t"))
    assert not (tmp_path / "t").exists()


def test_deleting_the_last_archive_removes_its_directory(root: Path) -> None:
    asyncio.run(DirectoryArchives(root).delete(NAME))
    assert files(root) == ["claude-code/session.zip"]
    assert not (root / NAME).parent.exists()


@pytest.fixture
def afar(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than that of the store."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to copy from")
    with tempfile.TemporaryDirectory(dir=shared_memory) as directory:
        yield Path(directory)


def test_a_source_on_another_file_system_is_copied(root: Path, afar: Path) -> None:
    source = afar / "made.zip"
    source.write_bytes(b"from afar")
    asyncio.run(DirectoryArchives(root).put("claude-code/session/job.2.zip", source))
    assert (root / "claude-code/session/job.2.zip").read_bytes() == b"from afar"
    assert not source.exists()


async def cancelled(call: Coroutine[Any, Any, object], pipe: Path) -> None:
    """Cancel the call while it reads the pipe, which gives its bytes as it is told to."""
    calling = asyncio.ensure_future(call)
    with await asyncio.to_thread(pipe.open, "wb", buffering=0) as end:
        end.write(b"begun")
        calling.cancel()
        await asyncio.sleep(0)
        assert not calling.done(), "it waits for its thread"
        end.write(b"more")
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_cancelled_put_has_ended_and_left_nothing(tmp_path: Path, afar: Path) -> None:
    """The source is a pipe, whose bytes are copied as it is told to give them."""
    source, store = afar / "made", DirectoryArchives(tmp_path / "store")
    os.mkfifo(source)
    await cancelled(store.put(NAME, source), source)
    assert files(tmp_path / "store") == []
    assert source.exists()


def as_pipe(archive: Path) -> Path:
    archive.unlink()
    os.mkfifo(archive)
    return archive


async def test_a_cancelled_fetch_has_ended_and_left_nothing(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "scratch" / "t"
    target.parent.mkdir()
    (root / NAME).with_name(".job.1.zip.sha256").unlink()  # or the checksum alone would refuse it
    await cancelled(DirectoryArchives(root).fetch(NAME, target), as_pipe(root / NAME))
    assert list(target.parent.iterdir()) == []


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some file systems: bytes are copied."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.usefixtures("no_hard_links")
async def test_a_cancelled_publish_has_ended_and_changed_nothing(root: Path) -> None:
    alias = "claude-code/session.zip"
    await cancelled(DirectoryArchives(root).publish(NAME, alias), as_pipe(root / NAME))
    assert (root / alias).read_bytes() == b"archive" * 1000
    assert list((root / ".incoming").iterdir()) == []


async def test_what_killed_processes_left_half_stored_is_deleted_at_a_start_a_day_later(
    tmp_path: Path,
) -> None:
    root = tmp_path / "archives"
    async with opened_archives(load(data=tmp_path, archives="directory")):
        pass
    for name in ("old", "young"):
        (root / ".incoming" / name).mkdir(parents=True)
        (root / ".incoming" / name / "archive").write_bytes(b"half")
    yesterday = time.time() - 24.1 * 3600
    os.utime(root / ".incoming" / "old", (yesterday, yesterday))
    async with opened_archives(load(data=tmp_path, archives="directory")):
        pass
    assert files(root) == [".incoming/young/archive"]
