"""Who is dead: only a worker of this machine whose process is certainly gone."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from overnight.adapters.roster import FileRoster, worker_name

HOST = "build-host.example"


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[FileRoster]:
    with closing(FileRoster(tmp_path, HOST)) as roster:
        yield roster


@contextmanager
def enrolled_process(data_dir: Path, worker: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is enrolled and waits. Its child lives longer: it has the lock if locks are inherited."""
    command = [sys.executable, __file__, str(data_dir), worker]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "enrolled\n"
        yield process
        process.kill()


def test_a_worker_is_dead_once_its_process_is(tmp_path: Path, roster: FileRoster) -> None:
    worker = worker_name(HOST, 4711, "0123abcd")
    with enrolled_process(tmp_path, worker) as process:
        assert not roster.is_dead(worker)
        process.kill()
        process.wait()
        assert roster.is_dead(worker)
        assert roster.is_dead(worker), "it may hold a second job"
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_living_worker_is_not_dead_even_to_itself(tmp_path: Path, roster: FileRoster) -> None:
    worker = worker_name(HOST, 1, "00000001")
    roster.enroll(worker)
    assert not roster.is_dead(worker)
    with closing(FileRoster(tmp_path, HOST)) as other:
        assert not other.is_dead(worker)


def test_a_worker_of_another_machine_is_never_dead(tmp_path: Path, roster: FileRoster) -> None:
    """Its file on a shared disk proves nothing: locks may not reach across machines."""
    foreign = worker_name("elsewhere", 1, "00000001")
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / f"{foreign}.lock").touch()
    assert not roster.is_dead(foreign)


def test_a_worker_without_a_file_is_not_known_to_be_dead(roster: FileRoster) -> None:
    assert not roster.is_dead(worker_name(HOST, 1, "00000001"))


@pytest.mark.parametrize(
    "name", ["", "w", "../../etc-1-00000000", f"{HOST}-1-0000000g", f"{HOST}-1-00000000\n"]
)
def test_a_name_that_is_none_is_not_dead_and_cannot_enroll(roster: FileRoster, name: str) -> None:
    assert not roster.is_dead(name)
    with pytest.raises(ValueError, match="hostname"):
        roster.enroll(name)


def test_a_name_can_be_held_once(tmp_path: Path, roster: FileRoster) -> None:
    worker = worker_name(HOST, 1, "00000001")
    roster.enroll(worker)
    with closing(FileRoster(tmp_path, HOST)) as other, pytest.raises(BlockingIOError):
        other.enroll(worker)
    assert not roster.is_dead(worker)


def test_a_worker_that_leaves_takes_its_file_with_it(tmp_path: Path, roster: FileRoster) -> None:
    roster.enroll(worker_name(HOST, 1, "00000001"))
    roster.close()
    assert list((tmp_path / "workers").iterdir()) == []


def test_any_hostname_makes_a_name() -> None:
    assert worker_name("a/b ☀", 12, "00000001") == "a_b__-12-00000001"
    assert worker_name("", 12, "00000001") == "_-12-00000001"


def enroll_and_wait(data_dir: str, worker: str) -> None:
    FileRoster(Path(data_dir), HOST).enroll(worker)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        print("enrolled", flush=True)


if __name__ == "__main__":
    enroll_and_wait(*sys.argv[1:])
