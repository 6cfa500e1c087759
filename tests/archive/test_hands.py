"""Work shared out between two threads: all of it is done, and what fails is told as if one had done it."""

import threading
from collections.abc import Callable, Iterable

import pytest

from overnight.archive.hands import Hand, share_out

DEADLINE = 30
Do = Callable[[int], None]


def share_out_to_two(
    short: Iterable[tuple[int, int]], long: Iterable[tuple[int, int]], do: tuple[Do, Do]
) -> None:
    """As a restore has it: the caller's thread does the short ones and then helps with the long ones."""
    lines = iter(short), iter(long)
    share_out(Hand(do[0], lines), [Hand(do[1], lines[1:])])


def numbered(*numbers: int) -> list[tuple[int, int]]:
    return [(number, number) for number in numbers]


def never(task: int) -> None:
    raise AssertionError(task)


def test_every_task_is_done_once() -> None:
    done: list[int] = []
    share_out_to_two(numbered(*range(0, 1000, 2)), numbered(*range(1, 1000, 2)), (done.append, done.append))
    assert sorted(done) == list(range(1000))


def test_short_and_long_tasks_are_done_at_the_same_time() -> None:
    """Each waits for the other: one thread alone would run into the deadline."""
    met = threading.Barrier(2)

    def meet(_: int) -> None:
        met.wait(DEADLINE)

    share_out_to_two(numbered(0), numbered(1), (meet, meet))


def test_short_tasks_are_the_callers_alone() -> None:
    share_out_to_two(numbered(*range(100)), [], (lambda _: None, never))


def test_the_caller_helps_with_long_tasks() -> None:
    """Both threads are in one at the same time."""
    met = threading.Barrier(2)

    def meet(_: int) -> None:
        met.wait(DEADLINE)

    share_out_to_two([], numbered(0, 1), (meet, meet))


@pytest.mark.parametrize(("short", "long"), [(0, 1), (1, 0)])
def test_the_earlier_of_two_failures_is_told_though_it_came_later(short: int, long: int) -> None:
    late_has_failed = threading.Event()

    def hand(task: int) -> None:
        if task == 0:
            assert late_has_failed.wait(DEADLINE)
        else:
            late_has_failed.set()
        raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match="task 0"):
        share_out_to_two(numbered(short), numbered(long), (hand, hand))


def test_what_comes_before_a_failure_is_still_done_and_nothing_behind_it() -> None:
    done: list[int] = []
    failed = threading.Event()

    def short(task: int) -> None:
        assert failed.wait(DEADLINE)
        done.append(task)
        if task == 3:
            raise ValueError("task 3")

    def long(task: int) -> None:
        failed.set()
        done.append(task)
        raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match="task 3"):
        share_out_to_two(numbered(1, 2, 3, 4), numbered(5, 6), (short, long))
    assert sorted(done) == [1, 2, 3, 5]


def test_an_interrupt_ends_both() -> None:
    begun = threading.Event()
    others = threading.active_count()

    def short(_: int) -> None:
        assert begun.wait(DEADLINE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        share_out_to_two(
            numbered(0), ((number, number) for number in range(1, 1 << 60)), (short, lambda _: begun.set())
        )
    assert threading.active_count() == others


def test_where_no_thread_can_be_started_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    share_out_to_two(numbered(0, 2), numbered(1, 3), (done.append, never))
    assert done == [0, 2, 1, 3]


def test_two_hands_may_take_from_one_line() -> None:
    """Each waits for the other."""
    met = threading.Barrier(2)

    def meet(_: int) -> None:
        met.wait(DEADLINE)

    line = iter(numbered(*range(10)))
    share_out(Hand(meet, [line]), [Hand(meet, [line])])
