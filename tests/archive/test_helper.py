"""A second process that helps with many small files: nobody can tell from what is made that there was one."""

import errno
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from overnight.archive import OWN, ArchiveRefused, Base, Part, pack, unpack
from overnight.archive.judge import judge
from overnight.archive.reader import open_archive

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]
DEADLINE = 20
FILES = 2500
HELD_FROM = 3 << 20
"""Bytes of the archive of `tree`: over a thousand of its files, and a quarter of it."""
HELPING = b"overnight.archive.helping"
WITHIN = re.compile(r"/d\d\d/e\d$")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More files than one process does alone, and among the later ones all that a helper leaves to the other."""
    root = tmp_path_factory.mktemp("many") / "tree"
    draw = random.Random(5)
    for number in range(FILES):
        directory = root / f"d{number % 40:02}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        half = draw.randrange(3_000)
        (directory / f"{number}.txt").write_bytes(draw.randbytes(half) + b"overnight" * (half // 9))
    late = root / "d39"
    (late / "large").write_bytes(draw.randbytes(5 << 20))
    for number in range(5):
        (late / f"heavy-{number}").write_bytes(draw.randbytes(3 << 20))
    (late / "link").symlink_to("large")
    (late / "empty").touch()
    os.mkfifo(late / "fifo")
    Path(os.fsdecode(os.fsencode(late) + b"/caf\xe9")).write_bytes(b"not UTF-8")
    (late / "strict").write_bytes(b"mode")
    (late / "strict").chmod(0o401)
    return root


@pytest.fixture
def archive(tree: Path, tmp_path: Path) -> Path:
    with on_one_core():
        pack([Part(tree, "")], tmp_path / "alone.zip", record=tmp_path / "alone.record")
    return tmp_path / "alone.zip"


@contextmanager
def on_one_core() -> Iterator[None]:
    """Where no helper is started."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def helpers(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:  # a thread that has just ended
            continue
        found += [int(child) for child in children if HELPING in _content(f"/proc/{child}/cmdline")]
    return found


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def is_at_work(pid: int) -> bool:
    """It has a directory of the tree open, which it keeps until it needs another."""
    try:
        return any(WITHIN.search(os.readlink(link)) for link in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115
    except OSError:  # it has ended, or closed one meanwhile
        return False


def is_waited_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + DEADLINE
    while not (met := condition()) and time.monotonic() < end:
        os.sched_yield()
    return met


class Watcher:
    """Sees the helper of this process once it is at work, and may kill it then."""

    def __init__(self, *, kill: bool = False) -> None:
        self.environment: bytes | None = None
        self._kill = kill
        self._over = threading.Event()
        self._seen = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def has_seen(self) -> bool:
        return self._seen.is_set()

    def hold(self, wrote: int) -> None:
        """As the `wrote` of a pack: it gets far enough to want a helper, and no further before that was seen."""
        if wrote > HELD_FROM:
            assert self._seen.wait(DEADLINE)

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            for pid in helpers(os.getpid()):
                if is_at_work(pid):
                    self.environment = _content(f"/proc/{pid}/environ")
                    if self._kill:
                        os.kill(pid, signal.SIGKILL)
                    self._seen.set()
                    return


def test_with_a_helper_a_pack_is_byte_for_byte_the_same(tree: Path, archive: Path, tmp_path: Path) -> None:
    with Watcher() as watcher:
        record = tmp_path / "a.record"
        packed = pack([Part(tree, "")], tmp_path / "a.zip", record=record, wrote=watcher.hold)
    assert (tmp_path / "a.zip").read_bytes() == archive.read_bytes()
    assert (tmp_path / "a.record").read_bytes() == (tmp_path / "alone.record").read_bytes()
    assert [left.path for left in packed.left_out] == ["d39/fifo"]
    assert helpers(os.getpid()) == []


def test_it_is_given_no_environment(tree: Path, tmp_path: Path) -> None:
    with Watcher() as watcher:
        pack([Part(tree, "")], tmp_path / "a.zip", wrote=watcher.hold)
    assert watcher.environment == b""


def test_what_a_killed_helper_had_to_read_is_read_without_it(
    tree: Path, archive: Path, tmp_path: Path
) -> None:
    with Watcher(kill=True) as watcher:
        pack([Part(tree, "")], tmp_path / "a.zip", wrote=watcher.hold)
    assert (tmp_path / "a.zip").read_bytes() == archive.read_bytes()


def test_many_changed_files_are_packed_upon_their_base(
    tree: Path, archive: Path, tmp_path: Path, snapshot: SnapshotOf
) -> None:
    unpack(archive, {"": tmp_path / "out"}, record=tmp_path / "r", sha256=sha256_of(archive))
    for path in sorted((tmp_path / "out").rglob("*.txt"))[::2]:
        path.write_bytes(path.read_bytes()[::-1])
    with Watcher() as watcher:
        base = Base(archive, tmp_path / "r")
        packed = pack([Part(tmp_path / "out", "")], tmp_path / "b.zip", base=base, wrote=watcher.hold)
    assert packed.incremental
    assert packed.reused_entries > FILES // 2
    unpack(tmp_path / "b.zip", {"": tmp_path / "again"})
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "out")


def test_with_a_helper_a_restore_is_the_same_tree_and_the_same_record(
    archive: Path, tmp_path: Path, snapshot: SnapshotOf
) -> None:
    with on_one_core():
        unpack(archive, {"": tmp_path / "alone"})

    def restore(place: Path) -> None:
        unpack(archive, {"": place / "out"}, record=place / "record", sha256=sha256_of(archive))
        assert snapshot(place / "out") == snapshot(tmp_path / "alone")
        base = Base(archive, place / "record")
        again = pack([Part(place / "out", "")], place / "b.zip", base=base)
        assert again.reused_entries == again.entries

    until_a_helper_was_seen(restore, tmp_path, Watcher())


def test_a_restore_whose_helper_is_killed_fails_and_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    failures: list[OSError] = []

    def restore(place: Path) -> None:
        try:
            unpack(archive, {"": place / "out"}, record=place / "record", sha256=sha256_of(archive))
        except OSError as error:
            failures.append(error)
            assert list(place.iterdir()) == []
            assert helpers(os.getpid()) == []

    while not failures:  # it may also come too late
        until_a_helper_was_seen(restore, tmp_path, Watcher(kill=True))
    assert [(error.errno, error.strerror) for error in failures] == [
        (errno.EIO, "The second process of a restore has ended")
    ]


def until_a_helper_was_seen(restore: Callable[[Path], None], directory: Path, watcher: Watcher) -> None:
    """On a busy machine a helper may start when all is done."""
    end = time.monotonic() + DEADLINE
    with watcher:
        while not watcher.has_seen:
            assert time.monotonic() < end
            place = Path(tempfile.mkdtemp(dir=directory))
            restore(place)


def test_where_no_helper_can_start_one_process_does_it_all(
    tree: Path, archive: Path, tmp_path: Path, snapshot: SnapshotOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in ("/bin/false", "/nowhere/python", ""):
        monkeypatch.setattr(sys, "executable", broken)
        pack([Part(tree, "")], tmp_path / "a.zip")
        assert (tmp_path / "a.zip").read_bytes() == archive.read_bytes()
    unpack(archive, {"": tmp_path / "out"})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    unpack(archive, {"": tmp_path / "again"})
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "again")


def test_a_few_files_are_not_worth_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each part of each checkpoint would be one every minute."""
    (tmp_path / "few").mkdir()
    for number in range(999):
        (tmp_path / "few" / f"{number}").write_bytes(b"few")
    program, started = tmp_path / "program", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    pack([Part(tmp_path / "few", "")], tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "out"})
    assert not started.exists()
    (tmp_path / "few" / "one more").write_bytes(b"many")
    (tmp_path / "few" / "and one").write_bytes(b"many")
    pack([Part(tmp_path / "few", "")], tmp_path / "a.zip")
    assert is_waited_for(started.exists)


def test_the_first_damaged_entry_is_told_whoever_met_it(archive: Path, tmp_path: Path) -> None:
    with open_archive(archive) as opened:
        small = [span for span in judge(opened, OWN).spans if 100 < span.record.size < 3_000]
    first, second = small[len(small) // 3], small[len(small) // 3 + 150]
    raw = bytearray(archive.read_bytes())
    for span in (first, second):
        raw[span.start + span.record.compressed_size // 2] ^= 1
    archive.write_bytes(raw)
    (tmp_path / "place").mkdir()
    for _ in range(4):
        with pytest.raises(ArchiveRefused, match=rf"entry {first.record.number} "):
            unpack(archive, {"": tmp_path / "place" / "out"})
        assert list((tmp_path / "place").iterdir()) == []


def test_a_file_system_that_refuses_a_file_of_the_helpers_is_an_error_of_its_own(
    archive: Path, tmp_path: Path
) -> None:
    """A limit of the process, which its helper has too."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from overnight.archive import unpack\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))\n"
        "try: unpack(Path(sys.argv[1]), {'': Path(sys.argv[2])})\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", code, str(archive), str(tmp_path / "place" / "out")]
    assert subprocess.run(command, check=False, timeout=DEADLINE).returncode == errno.EFBIG
    assert list((tmp_path / "place").iterdir()) == []


def test_it_ends_with_the_process_that_it_helps(tree: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from overnight.archive import Part, pack\n"
        "while True: pack([Part(Path(sys.argv[1]), '')], Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tree), str(tmp_path / "a.zip")])
    try:
        assert is_waited_for(lambda: any(map(is_at_work, helpers(process.pid))))
        seen = helpers(process.pid)
    finally:
        process.kill()
        process.wait()
    assert is_waited_for(lambda: not any(HELPING in _content(f"/proc/{pid}/cmdline") for pid in seen))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
