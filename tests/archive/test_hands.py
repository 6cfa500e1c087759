"""Work shared out among threads: all of it is done, and what fails is told as if one hand had done it."""

import threading
from collections.abc import Callable

import pytest

from overnight.archive.hands import share_out

DEADLINE = 30


def test_every_task_is_done_once() -> None:
    done: list[int] = []
    share_out(range(1000), [done.append, done.append, done.append])
    assert sorted(done) == list(range(1000))


def test_hands_work_at_the_same_time() -> None:
    """Each waits for the other: one hand alone would run into the deadline."""
    met = threading.Barrier(2)

    def meet(_: int) -> None:
        met.wait(DEADLINE)

    share_out([0, 1], [meet, meet])


def failing(tasks: dict[int, Callable[[], None]]) -> Callable[[int], None]:
    def hand(task: int) -> None:
        tasks[task]()

    return hand


def test_of_two_failures_the_earlier_task_is_told_though_it_failed_later() -> None:
    later_has_failed = threading.Event()

    def early() -> None:
        assert later_has_failed.wait(DEADLINE)
        raise ValueError("early")

    def late() -> None:
        later_has_failed.set()
        raise ValueError("late")

    hand = failing({0: early, 1: late})
    with pytest.raises(ValueError, match="early"):
        share_out([0, 1], [hand, hand])


def test_nothing_is_begun_after_a_failure_and_nothing_runs_on() -> None:
    begun: list[int] = []
    others = threading.active_count()

    def hand(task: int) -> None:
        begun.append(task)
        if task == 3:
            raise ValueError("third")

    with pytest.raises(ValueError, match="third"):
        share_out(range(1000), [hand])
    assert begun == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="third"):
        share_out(range(1000), [hand, hand])
    assert threading.active_count() == others


def test_where_no_thread_can_be_started_one_hand_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    share_out(range(10), [done.append, pytest.fail])
    assert done == list(range(10))


def test_without_tasks_there_is_nothing_to_do() -> None:
    share_out([], [pytest.fail])
