"""Which workers of this machine are alive: each holds a lock on a file of its name, and death lets go of it.

So after a crash the jobs of the dead worker need not wait for the end of their leases (facts: queue 7).
"""

import fcntl
import os
import re
from pathlib import Path

_WORKER = re.compile(r"(?P<host>[A-Za-z0-9_.-]{1,64})-(?P<pid>[0-9]{1,10})-(?P<token>[0-9a-f]{8})", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)


def worker_name(hostname: str, pid: int, token: str) -> str:
    """`<hostname>-<pid>-<8 hexadecimal digits>`, safe as a file name."""
    return f"{_host(hostname)}-{pid}-{token}"


def _host(hostname: str) -> str:
    return _UNSAFE.sub("_", hostname)[:64] or "_"


class FileRoster:
    """The port `Roster`. Made after any fork: a child would share the locks.

    A worker is called dead only on evidence: its file is here and nobody holds it. A name that carries another
    hostname, or has no file, may belong to another machine and is left to its lease.
    """

    def __init__(self, data_dir: Path, hostname: str) -> None:
        self._directory = data_dir / "workers"
        self._host = _host(hostname)
        self._held: dict[str, int] = {}
        self._dead: set[str] = set()

    def enroll(self, worker: str) -> None:
        """Hold the name until `close` or the end of the process. Raises ValueError, OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self._path(worker), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        self._held[worker] = file

    def is_dead(self, worker: str) -> bool:
        if worker not in self._dead and self._is_abandoned(worker):
            self._dead.add(worker)  # its file is gone now, but it may hold more jobs
        return worker in self._dead

    def close(self) -> None:
        for worker, file in self._held.items():
            self._path(worker).unlink(missing_ok=True)
            os.close(file)
        self._held.clear()

    def _is_abandoned(self, worker: str) -> bool:
        name = _WORKER.fullmatch(worker)
        return name is not None and name["host"] == self._host and _remove_if_free(self._path(worker))

    def _path(self, worker: str) -> Path:
        if _WORKER.fullmatch(worker) is None:
            raise ValueError("a worker is named <hostname>-<pid>-<8 hexadecimal digits>")
        return self._directory / f"{worker}.lock"


def _remove_if_free(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)
