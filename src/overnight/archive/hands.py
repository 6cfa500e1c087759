"""Shares work out between threads. Inflating, system calls and waiting leave the interpreter to the others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
Line = Iterator[tuple[int, T]]
"""Tasks, numbered upwards. Several hands may take from one line."""


class Hand(NamedTuple, Generic[T]):
    """Does one task after another, and the lines in their order."""

    do: Callable[[T], None]
    lines: Sequence[Line[T]]


def share_out(own: Hand[T], others: Sequence[Hand[T]]) -> None:
    """The caller's thread is one hand, and each of the others has a thread of its own.

    Raises the failure with the lowest number once all have stopped: all tasks before it are done then, so
    whatever the timing, it is the one that one thread would have met. The caller's hand must have
    every line: there may be no thread for the others.
    """
    turns = _Turns[T]()
    threads = [threading.Thread(target=turns.work, args=(hand,), name="overnight-hand") for hand in others]
    try:
        with suppress(RuntimeError):  # no thread to be had: then one does it all
            for thread in threads:
                thread.start()
        turns.work(own)
    except BaseException:  # an interrupt: failures of tasks are told below
        turns.end()
        raise
    finally:
        for thread in threads:
            if thread.ident:  # it was started
                thread.join()
    turns.raise_first()


class _Turns(Generic[T]):
    """After a failure only what comes before it is still begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: float = float("inf")
        self._failures: dict[int, Exception] = {}

    def work(self, hand: Hand[T]) -> None:
        for line in hand.lines:
            while (turn := self._next(line)) is not None:
                number, task = turn
                try:
                    hand.do(task)
                except Exception as error:  # noqa: BLE001 - any: it is raised in the caller's thread, by `raise_first`
                    with self._lock:
                        self._failures[number] = error
                        self._end = min(self._end, number)

    def end(self) -> None:
        """Nothing more is begun."""
        with self._lock:
            self._end = -1

    def raise_first(self) -> None:
        if self._failures:
            raise self._failures[min(self._failures)]

    def _next(self, line: Line[T]) -> tuple[int, T] | None:
        with self._lock:
            turn = next(line, None)
            return turn if turn is not None and turn[0] < self._end else None
