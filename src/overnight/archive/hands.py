"""Shares work out between two threads. Inflating and system calls leave the interpreter to the other one."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
Task = tuple[int, T]


def share_out(
    short: Iterable[Task[T]], long: Iterable[Task[T]], hands: tuple[Callable[[T], None], Callable[[T], None]]
) -> None:
    """The caller's thread does the short tasks, and then helps a second thread, which does the long ones.

    Short tasks want the interpreter all the time: in two threads they would get in each other's way. Tasks are
    numbered, in each line upwards. Raises the failure with the lowest number once both threads have
    stopped: all tasks before it are done then, so whatever the timing, it is the one that one thread would have met.
    """
    turns = _Turns[T]()
    lines = iter(short), iter(long)
    helper = threading.Thread(target=turns.work, args=(lines[1], hands[1]), name="overnight-hand")
    try:
        with suppress(RuntimeError):  # no thread to be had: then one does it all
            helper.start()
        for line in lines:
            turns.work(line, hands[0])
    except BaseException:  # an interrupt: failures of tasks are told below
        turns.end()
        raise
    finally:
        if helper.ident:  # it was started
            helper.join()
    turns.raise_first()


class _Turns(Generic[T]):
    """After a failure only what comes before it is still begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: float = float("inf")
        self._failures: dict[int, Exception] = {}

    def work(self, line: Iterator[Task[T]], hand: Callable[[T], None]) -> None:
        while (turn := self._next(line)) is not None:
            number, task = turn
            try:
                hand(task)
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

    def _next(self, line: Iterator[Task[T]]) -> Task[T] | None:
        with self._lock:
            turn = next(line, None)
            return turn if turn is not None and turn[0] < self._end else None
