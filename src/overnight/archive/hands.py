"""Shares work out among a few threads. Inflating and system calls leave the interpreter to the others."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

HANDS = 2
"""Threads of one restore, the caller's among them. A third had nothing to gain on two cores."""


def share_out(tasks: Sequence[T], hands: Sequence[Callable[[T], None]]) -> None:
    """Each task goes to the next hand that is free; the first hand is the caller's own thread.

    Raises what the earliest failing task raised, once all hands have stopped: whatever the timing, it is what one
    hand alone would have raised.
    """
    turns = _Turns(tasks)
    helpers: list[threading.Thread] = []
    try:
        for hand in hands[1 : len(tasks)]:
            helper = threading.Thread(target=turns.work, args=(hand,), name="overnight-hand")
            with suppress(RuntimeError):  # no thread to be had: those that are there do it all
                helper.start()
                helpers.append(helper)
        turns.work(hands[0])
    finally:
        turns.end()
        for helper in helpers:
            helper.join()
    turns.raise_earliest()


class _Turns(Generic[T]):
    """Tasks are begun in order, and none is broken off: before one that failed, all others are over."""

    def __init__(self, tasks: Sequence[T]) -> None:
        self._tasks = enumerate(tasks)
        self._lock = threading.Lock()
        self._over = False
        self._failures: dict[int, BaseException] = {}

    def work(self, hand: Callable[[T], None]) -> None:
        while (turn := self._next()) is not None:
            number, task = turn
            try:
                hand(task)
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread, by `raise_earliest`
                self._failures[number] = error
                self.end()

    def end(self) -> None:
        self._over = True

    def raise_earliest(self) -> None:
        if self._failures:
            raise self._failures[min(self._failures)]

    def _next(self) -> tuple[int, T] | None:
        with self._lock:
            return None if self._over else next(self._tasks, None)
