"""Turns within one process: a change waits for the one before it, instead of colliding with it in the ledger."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from zlib import crc32

InTurn = Callable[[str], AbstractAsyncContextManager[object]]
"""Given what is to be changed, a block in which no other change of this process is under way on it."""

STRIPES = 64


class Turns:
    """One lock for each of a fixed number of stripes, so that none has to be forgotten again."""

    def __init__(self) -> None:
        self._locks = tuple(asyncio.Lock() for _ in range(STRIPES))

    def __call__(self, name: str) -> AbstractAsyncContextManager[object]:
        return self._locks[crc32(name.encode()) % STRIPES]


def no_turns(_: str) -> AbstractAsyncContextManager[object]:
    """For the edge: its requests must not wait for one another, and compare-and-swap alone is safe."""
    return nullcontext()
