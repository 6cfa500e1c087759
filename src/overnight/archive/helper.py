"""A second process of ours that shares the work of many small files, which keep the interpreter of one busy.

It is this program again (`overnight.archive.helping`), with the same rights. It gets an empty environment and the
descriptors that come with its order, and ends when this process does: its channel ends then.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from overnight.archive.wire import DIALECT

SILENT_SECONDS = 120.0
"""Without a byte from a helper it counts as lost: it was stopped, or its disk is."""
FEW = 1000
"""Files that one process has done by the time a second one is ready (it takes 0.1 s of CPU)."""
_LENGTH = struct.Struct("<Q")
_MOST_DESCRIPTORS = 2


class HelperLost(Exception):
    """It ended before it answered, or never began."""


class Channel:
    """Messages over a stream socket, each behind its length."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._file = end.makefile("rwb")

    def send(self, message: bytes) -> None:
        self._file.write(_LENGTH.pack(len(message)))
        self._file.write(message)
        self._file.flush()

    def send_order(self, message: bytes, descriptors: Sequence[int]) -> None:
        """The first message, and the only one that descriptors go along with."""
        socket.send_fds(self._end, [_LENGTH.pack(len(message))], descriptors)
        self._file.write(message)
        self._file.flush()

    def receive_order(self) -> tuple[bytes | None, list[int]]:
        head, descriptors, _, _ = socket.recv_fds(self._end, _LENGTH.size, _MOST_DESCRIPTORS)
        return self._after(head), descriptors

    def receive(self) -> bytes | None:
        """None at the end."""
        return self._after(self._file.read(_LENGTH.size))

    def _after(self, head: bytes) -> bytes | None:
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        message = self._file.read(length)
        return message if len(message) == length else None

    def close(self) -> None:
        with suppress(OSError):  # of what nobody takes any more
            self._file.close()
        self._end.close()


class Helper:
    """Answers one request after another. If two threads ask, it has the next request when it has answered one."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self._process = process
        self._channel = channel
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    def order(self, work: str, order: Mapping[str, object], descriptors: Mapping[str, int]) -> None:
        """What it is to do, said once and before all else (see `overnight.archive.helping`). It finds the descriptors
        under their names; they are taken over, and closed here."""
        message = json.dumps((work, order, tuple(descriptors))).encode()
        try:
            with suppress(OSError):  # it has ended already: the first request will tell
                self._channel.send_order(message, tuple(descriptors.values()))
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def ask(self, request: bytes) -> bytes:
        """Raises HelperLost."""
        try:
            with self._sending:
                self._channel.send(request)
                self._receiving.acquire()  # before the next is sent: answers come in the order of requests
            try:
                answer = self._channel.receive()
            finally:
                self._receiving.release()
        except OSError:
            answer = None
        if answer is None:
            raise HelperLost
        return answer

    def stop(self) -> None:
        """Whoever waits for an answer in another thread gets none."""
        self._process.kill()

    def close(self) -> None:
        """Nobody may be asking."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


@contextmanager
def start_helper() -> Iterator[Helper | None]:
    """None where it would be of no use, without a second core, or if no process is to be had."""
    helper = _started() if _cores() > 1 and sys.executable else None
    try:
        yield helper
    finally:
        if helper:
            helper.close()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started() -> Helper | None:
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        return None
    ours.settimeout(SILENT_SECONDS)
    with theirs:
        command = [sys.executable, "-I", "-m", "overnight.archive.helping", str(theirs.fileno()), DIALECT]
        try:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                command,
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        except OSError:
            ours.close()
            return None
    return Helper(process, Channel(ours))
