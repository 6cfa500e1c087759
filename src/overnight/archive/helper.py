"""A second process of ours that shares the work of many small files, which keep the interpreter of one busy.

It is this program again (`overnight.archive.helping`), with the same rights. It gets an empty environment and the
descriptors it is sent with, and ends when this process does: its channel ends then.
"""

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from overnight.archive.wire import DIALECT

SILENT_SECONDS = 120.0
"""Without a byte from a helper it counts as lost: it was stopped, or its disk is."""
FEW = 1000
"""Files that one process has done by the time a second one is ready (it takes 0.1 s of CPU)."""
_LENGTH = struct.Struct("<Q")


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

    def receive(self) -> bytes | None:
        """None at the end."""
        head = self._file.read(_LENGTH.size)
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
    """Answers one request after another."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self._process = process
        self._channel = channel

    def ask(self, request: bytes) -> bytes:
        """Raises HelperLost."""
        try:
            self._channel.send(request)
            answer = self._channel.receive()
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
def start_helper(
    work: str, order: Mapping[str, object], descriptors: Mapping[str, int]
) -> Iterator[Helper | None]:
    """`work` and `order` say what it is to do (see `overnight.archive.helping`). The `descriptors` are taken over;
    it finds them under their names.

    None where it would be of no use, without a second core, or if no process is to be had.
    """
    try:
        helper = _started(work, order, descriptors) if _cores() > 1 and sys.executable else None
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    try:
        yield helper
    finally:
        if helper:
            helper.close()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started(work: str, order: Mapping[str, object], descriptors: Mapping[str, int]) -> Helper | None:
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
                pass_fds=(theirs.fileno(), *descriptors.values()),
            )
        except OSError:
            ours.close()
            return None
    channel = Channel(ours)
    with suppress(OSError):  # it has ended already: the first request will tell
        channel.send(json.dumps({work: {**order, **descriptors}}).encode())
    return Helper(process, channel)
