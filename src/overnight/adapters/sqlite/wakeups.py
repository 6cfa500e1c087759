"""Wake-ups between the processes on one data directory: unix datagrams, and a slow look at the file as the net.

Each process listens on a socket in `DATA/wake`. Whoever has committed sends the topics to all others: 0.24 ms and
no idle CPU, where polling would cost 1 ms of latency per 2.7 % of a core (facts: queue 3.4). A lost datagram
costs a second at most: the net sees that another process has written.
"""

import asyncio
import hashlib
import os
import socket
import stat
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import apsw

from overnight.adapters.sqlite.database import Database
from overnight.ports import Entropy, StorageBusy, StorageError, StorageFull, Subscription, Wakeups

NET_SECONDS = 1.0
MAX_ADDRESS_BYTES = 107
"""Of a unix socket's path on Linux; other systems allow 103."""
LONGEST_NAME = len("/4194304-12345678.sock.new")
MAX_DATAGRAM_BYTES = 32 * 1024
EVERYTHING = b"*"


class DatagramWakeups:
    """The port `Wakeups`: carries announcements between processes, and leaves the own process to `local`.

    Made by `open_wakeups`. Announcements of one loop iteration share a datagram.
    """

    def __init__(self, local: Wakeups, directory: Path, name: str) -> None:
        self._local = local
        self._directory = directory
        self._name = f"{name}.sock"
        self._subscribed: Counter[str] = Counter()
        self._pending: set[str] = set()
        self._socket = _listen(directory, self._name)

    def announce(self, *topics: str) -> None:
        self._local.announce(*topics)
        if topics and not self._pending:
            asyncio.get_running_loop().call_soon(self._send)
        self._pending.update(topics)

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Subscription]:
        self._subscribed[topic] += 1
        try:
            with self._local.subscribe(topic) as subscription:
                yield subscription
        finally:
            self._subscribed[topic] -= 1
            if not self._subscribed[topic]:
                del self._subscribed[topic]

    def wake_all(self) -> None:
        self._local.announce(*self._subscribed)

    @contextmanager
    def listening(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._receive)
        try:
            yield
        finally:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()
            (self._directory / self._name).unlink(missing_ok=True)

    def _receive(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while True:
                datagram = self._socket.recv(MAX_DATAGRAM_BYTES)
                if datagram == EVERYTHING:
                    self.wake_all()
                else:
                    self._local.announce(*datagram.decode(errors="replace").split("\n"))

    def _send(self) -> None:
        datagram = "\n".join(self._pending).encode()
        self._pending.clear()
        if len(datagram) > MAX_DATAGRAM_BYTES:
            datagram = EVERYTHING
        with suppress(OSError):  # the directory was removed: the net is left
            for address in self._directory.iterdir():
                if address.suffix == ".sock" and address.name != self._name:
                    self._send_to(address, datagram)

    def _send_to(self, address: Path, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, str(address))
        except ConnectionRefusedError:  # its process is gone
            address.unlink(missing_ok=True)
        except OSError:  # gone this moment, or too busy to take it: the net wakes it
            pass


@asynccontextmanager
async def open_wakeups(
    database: Database, local: Wakeups, entropy: Entropy, *, net_seconds: float = NET_SECONDS
) -> AsyncIterator[DatagramWakeups]:
    """Listen until the end of the context. Leave it before the database is closed."""
    directory = await asyncio.to_thread(socket_directory, database.data_dir, Path(tempfile.gettempdir()))
    wakeups = DatagramWakeups(local, directory, f"{os.getpid()}-{entropy.token()[:8]}")
    with wakeups.listening():
        net = asyncio.create_task(_watch(database, wakeups, net_seconds), name="wakeups-net")
        try:
            yield wakeups
        finally:
            net.cancel()
            await asyncio.wait([net])


async def _watch(database: Database, wakeups: DatagramWakeups, seconds: float) -> None:
    """Wake everybody when another process has written. Ends with the database."""
    seen = None
    with suppress(StorageError):
        while True:
            with suppress(StorageBusy, StorageFull):
                version = await database.write(_version)
                if seen not in (None, version):
                    wakeups.wake_all()
                seen = version
            await asyncio.sleep(seconds)


def _version(connection: apsw.Connection) -> int:
    """Changes with the commits of other connections; asked of the writing one, so of other processes."""
    return int(connection.pragma("data_version"))


def socket_directory(data_dir: Path, temporary: Path) -> Path:
    """`DATA/wake`, or where the path would be too long for a socket, a short one that `DATA/wake.path` names."""
    directory = data_dir.absolute() / "wake"
    if len(os.fsencode(directory)) + LONGEST_NAME > MAX_ADDRESS_BYTES:
        directory = _recorded(data_dir / "wake.path", _short(data_dir, temporary))
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()  # Where everybody may write, another user could have put a link there.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError("the directory for wake-ups is a link, or belongs to another user")
    return directory


def _short(data_dir: Path, temporary: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()
    return temporary / f"overnight-{os.getuid()}-{digest[:12]}"


def _recorded(record: Path, proposal: Path) -> Path:
    """The first process decides, so that those with another TMPDIR meet it."""
    with suppress(FileExistsError):
        draft = record.with_name(f"{record.name}.{os.getpid()}")
        draft.write_bytes(os.fsencode(proposal))
        try:
            record.hardlink_to(draft)
        finally:
            draft.unlink()
    return Path(os.fsdecode(record.read_bytes()))


def _listen(directory: Path, name: str) -> socket.socket:
    """Bound under another name first: a socket is not known by its own before it can receive."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        bound = directory / f"{name}.new"
        listener.bind(str(bound))
        bound.rename(directory / name)
    except OSError:
        listener.close()
        raise
    return listener
