"""The real clock and the real randomness."""

import math
import os
import shutil
import time
from base64 import urlsafe_b64encode
from pathlib import Path

from overnight.domain.ids import uuid4, uuid7

_TAIL_BITS = 62
_START_BITS = 73
"""Of the 74 random bits of a version 7 UUID; the first stays free, so that counting up never overflows."""


class SystemClock:
    def now(self) -> float:
        return time.time()


class FreeSpace:
    """How much room is left on a disk, looked up at most once a second.

    Called on the event loop: the database is on this disk too, and if it hangs, so does everything.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._looked_at = -math.inf
        self._bytes = 0

    def __call__(self) -> int:
        if time.monotonic() - self._looked_at >= 1.0:
            self._bytes = shutil.disk_usage(self._directory).free
            self._looked_at = time.monotonic()
        return self._bytes


class SystemEntropy:
    """The port `Entropy`. Job ids of one process rise strictly, also within a millisecond (RFC 9562, 6.2)."""

    def __init__(self) -> None:
        self._millisecond = 0
        self._counter = 0

    def job_id(self) -> str:
        millisecond = int(time.time() * 1000)
        if millisecond > self._millisecond:
            self._millisecond = millisecond
            self._counter = int.from_bytes(os.urandom(10), "big") >> (80 - _START_BITS)
        else:  # the same millisecond, or the clock was set back
            self._counter += 1 + int.from_bytes(os.urandom(4), "big")
        return uuid7((self._millisecond + 0.5) / 1000, _octets(self._counter))

    def session_id(self) -> str:
        return uuid4(os.urandom(16))

    def delivery_id(self) -> str:
        return f"msg_{os.urandom(16).hex()}"

    def chance(self) -> float:
        return (int.from_bytes(os.urandom(8), "big") >> 11) / (1 << 53)

    def token(self) -> str:
        return urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()


def _octets(counter: int) -> bytes:
    """The counter where the version and variant bits leave room: 12 bits in two octets, 62 in eight."""
    head, tail = counter >> _TAIL_BITS, counter & ((1 << _TAIL_BITS) - 1)
    return head.to_bytes(2, "big") + tail.to_bytes(8, "big")
