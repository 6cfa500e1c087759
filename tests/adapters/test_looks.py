"""When the alarm of a session looks: seldom while nothing changes, in time when something must be done."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from overnight.adapters.cloudflare import lost_answers, over_http, queue
from overnight.adapters.cloudflare.looks import (
    DEBT_SECONDS,
    JITTER,
    LONGEST_PAUSE_SECONDS,
    Sight,
    after_a_look,
    after_a_write,
    is_lost,
    owed_of,
    silent,
)
from overnight.domain.job import Delivery, DeliveryStatus, Job, Lease, Status
from overnight.settings import Settings

FRONT = Path(__file__).parents[2] / "edge" / "src" / "front.py"
TEND = float(re.findall(r"^TEND_SECONDS = (.*)$", FRONT.read_text(), re.MULTILINE)[0])
DAY = 86400.0
QUEUED = Job(job_id="j", session_id="s", status=Status.QUEUED, created_at=0.0, available_at=0.0)
RUNNING = replace(QUEUED, status=Status.PROCESSING, attempt=1, lease=Lease(worker="w", until=15.0))
OWED = Delivery(delivery_id="d", job_id="j", url="https://example.com/", body="", created_at=0.0, next_at=0.0)


def looks(sight: Sight, *, until: float, chance: float = 0.0) -> Iterator[float]:
    """The times of an alarm, from the write at 0 on, while nothing changes."""
    at = after_a_write(sight, now=0.0, tend_seconds=TEND)
    while at is not None and at <= until:
        yield at
        at = after_a_look(sight, now=at, tend_seconds=TEND, chance=chance)


def test_a_call_that_hangs_is_given_up_while_the_run_can_still_be_saved() -> None:
    """A lease is renewed when a third of it has passed."""
    renewed_after = Settings.model_fields["lease_seconds"].default / 3
    assert renewed_after + over_http.TIMEOUT_SECONDS + lost_answers.LOOK_SECONDS < TEND
    assert queue.TIMEOUT_SECONDS < TEND


def test_a_job_that_only_waits_is_looked_at_ever_more_seldom_and_rung_each_time() -> None:
    sight = Sight(first=QUEUED)
    times = list(looks(sight, until=2 * 3600.0))
    assert times[:6] == [20.0, 40.0, 80.0, 160.0, 320.0, 640.0]
    assert all(silent(sight, now=at) == ["j"] for at in times)
    assert max(later - at for at, later in pairwise(times)) == LONGEST_PAUSE_SECONDS


def test_a_day_of_waiting_is_few_looks() -> None:
    """A look each 20 seconds was 4,320 a day."""
    assert len(list(looks(Sight(first=QUEUED), until=DAY))) == 54


def test_those_who_began_to_wait_together_part() -> None:
    sight = Sight(first=QUEUED)
    times = {list(looks(sight, until=1000.0, chance=chance))[-1] for chance in (0.0, 0.3, 0.9)}
    assert len(times) == 3


@given(st.floats(0.0, DAY), st.floats(0.0, 0.999))
def test_no_pause_is_longer_than_the_longest(now: float, chance: float) -> None:
    at = after_a_look(Sight(first=QUEUED), now=now, tend_seconds=TEND, chance=chance)
    assert at is not None
    assert 0.0 < at - now <= LONGEST_PAUSE_SECONDS * (1 + JITTER)


def test_a_job_that_waits_for_a_time_is_not_looked_at_before() -> None:
    sight = Sight(first=replace(QUEUED, available_at=600.0))
    times = looks(sight, until=DAY)
    assert next(times) == 620.0
    assert silent(sight, now=599.0) == []
    assert silent(sight, now=620.0) == ["j"]


@given(st.lists(st.floats(0.0, TEND - 1.0), max_size=20))
def test_a_worker_that_died_is_found_within_the_time_of_a_look(gaps: list[float]) -> None:
    """Whatever renewals it made before."""
    renewals = [0.0]
    for gap in gaps:
        renewals.append(renewals[-1] + gap)

    def seen(now: float) -> Sight:
        return Sight(first=RUNNING, written_at=max(at for at in renewals if at <= now))

    at = after_a_write(seen(0.0), now=0.0, tend_seconds=TEND)
    for _ in range(len(renewals) + 1):
        assert at is not None
        if is_lost(seen(at), now=at, tend_seconds=TEND):
            break
        at = after_a_look(seen(at), now=at, tend_seconds=TEND, chance=0.0)
    assert at == renewals[-1] + TEND


def test_a_lost_job_that_could_not_be_taken_back_is_tried_again_and_not_at_once() -> None:
    lost = Sight(first=RUNNING, written_at=0.0)
    assert after_a_look(lost, now=500.0, tend_seconds=TEND, chance=0.0) == 500.0 + TEND


def test_the_event_that_ends_a_wait_brings_the_look_forward() -> None:
    waits = after_a_look(Sight(first=QUEUED), now=10_000.0, tend_seconds=TEND, chance=0.0)
    claimed = Sight(first=RUNNING, written_at=10_001.0)
    assert waits == 10_000.0 + LONGEST_PAUSE_SECONDS
    assert after_a_write(claimed, now=10_001.0, tend_seconds=TEND) == 10_001.0 + TEND


def test_a_webhook_that_nobody_tries_is_rung_for_and_one_that_is_tried_is_not() -> None:
    owed = Sight(first=None, owed=(OWED,))
    assert next(looks(owed, until=DAY)) == DEBT_SECONDS
    assert silent(owed, now=DEBT_SECONDS) == ["j"]
    tried = Sight(first=None, owed=(replace(OWED, next_at=300.0),))
    assert silent(tried, now=DEBT_SECONDS) == []
    assert after_a_look(tried, now=DEBT_SECONDS, tend_seconds=TEND, chance=0.0) == 300.0 + DEBT_SECONDS


def test_a_session_with_nothing_open_is_looked_at_no_more() -> None:
    paid = replace(OWED, status=DeliveryStatus.DELIVERED)
    sight = Sight(first=None, owed=owed_of([paid]))
    assert list(looks(sight, until=DAY)) == []
    assert after_a_look(sight, now=0.0, tend_seconds=TEND, chance=0.0) is None
