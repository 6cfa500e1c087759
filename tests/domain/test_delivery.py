import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.delivery import (
    DELAYS,
    JITTER,
    KEPT_TRIES,
    MAX_RESULT_BYTES,
    MAX_RETRY_AFTER,
    after_try,
    body_of,
    owe,
    redeliver,
    reserve,
)
from overnight.domain.errors import ErrorCode, JobError
from overnight.domain.job import Delivery, DeliveryStatus, DeliveryTry, Job, Status

JOB = Job(
    job_id="j",
    session_id="s",
    status=Status.COMPLETED,
    created_at=1.0,
    available_at=1.0,
    completed_at=2.0,
    callback_url="https://example.com/hook",
    metadata={"team": "ä"},
    result="done",
)
OWED = owe(JOB, delivery_id="msg_1", now=100.0)
chances = st.floats(min_value=0, max_value=1, exclude_max=True)


def tried(
    delivery: Delivery,
    *,
    status: int | None = None,
    failure: str | None = None,
    retry_after: float | None = None,
    chance: float = 0.5,
) -> Delivery:
    attempt = DeliveryTry(at=200.0, status=status, failure=failure)
    return after_try(delivery, attempt, retry_after=retry_after, now=200.0, chance=chance)


def test_a_delivery_is_due_at_once() -> None:
    assert (OWED.status, OWED.next_at, OWED.tries) == (DeliveryStatus.OWED, 100.0, ())


def test_a_job_without_a_callback_owes_nothing() -> None:
    with pytest.raises(ValueError, match="no webhook"):
        owe(replace(JOB, callback_url=None), delivery_id="msg_1", now=1.0)


def test_the_body_says_what_became_of_the_job() -> None:
    error = JobError(code=ErrorCode.TIMEOUT, message="too long", retryable=False)
    body = json.loads(body_of(replace(JOB, status=Status.FAILED, result=None, error=error)))
    assert body["type"] == "job.failed"
    assert (body["job_id"], body["session_id"], body["status"]) == ("j", "s", "failed")
    assert body["error"] == {"code": "timeout", "message": "too long", "retryable": False}
    assert body["metadata"] == {"team": "ä"}


def test_the_body_says_how_the_run_was_kept_apart() -> None:
    held = {"files": True, "process_limit": False}
    body = json.loads(body_of(replace(JOB, isolation="landlock", isolation_properties=held)))
    assert (body["isolation"], body["isolation_properties"]) == ("landlock", held)


@pytest.mark.parametrize("character", ["a", "ä", "☀", "\n", "\x01", "\ud800"])
def test_a_long_result_is_cut_and_the_body_says_so(character: str) -> None:
    """A webhook of less than 20 kB is promised, whatever its characters take."""
    text = body_of(replace(JOB, result=character * 100_000))
    body = json.loads(text)
    assert body["result_truncated"]
    assert character * 2_000 in body["result"]
    assert MAX_RESULT_BYTES * 0.99 < len(text.encode(errors="replace")) < 20_000


@given(st.text(alphabet=st.characters(max_codepoint=0x400), max_size=200).map(lambda text: text * 80))
def test_what_is_sent_of_a_result_is_its_beginning(result: str) -> None:
    body = json.loads(body_of(replace(JOB, result=result)))
    assert result.startswith(body["result"])
    assert body["result_truncated"] == (body["result"] != result)


def test_a_result_that_fits_is_sent_whole() -> None:
    body = json.loads(body_of(replace(JOB, result="a" * (MAX_RESULT_BYTES - 2))))
    assert not body["result_truncated"]


def test_one_process_takes_a_due_delivery() -> None:
    taken = reserve(OWED, now=100.0, seconds=60.0)
    assert taken == replace(OWED, next_at=160.0)
    assert reserve(taken, now=159.0, seconds=60.0) is None
    assert reserve(replace(OWED, status=DeliveryStatus.DELIVERED), now=200.0, seconds=60.0) is None


@pytest.mark.parametrize("status", [200, 204, 299])
def test_2xx_delivers(status: int) -> None:
    assert tried(OWED, status=status).status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize("status", [410, 500])
def test_what_was_delivered_stays_delivered_when_a_slower_try_fails(status: int) -> None:
    late = tried(tried(OWED, status=204), status=status)
    assert (late.status, len(late.tries)) == (DeliveryStatus.DELIVERED, 2)


@pytest.mark.parametrize("status", [199, 301, 404, 429, 500])
def test_other_statuses_are_tried_again(status: int) -> None:
    again = tried(OWED, status=status)
    assert (again.status, again.next_at) == (DeliveryStatus.OWED, 205.0)


def test_gone_and_a_refused_url_end_it() -> None:
    assert tried(OWED, status=410).status is DeliveryStatus.FAILED
    assert tried(OWED, failure="url_refused").status is DeliveryStatus.FAILED


def test_a_denied_address_gets_a_second_chance_only() -> None:
    once = tried(OWED, failure="address_denied")
    assert once.status is DeliveryStatus.OWED
    assert tried(tried(once, failure="timeout"), failure="address_denied").status is DeliveryStatus.FAILED


def test_it_is_tried_as_often_as_there_are_delays() -> None:
    delivery, waits = OWED, []
    while delivery.status is DeliveryStatus.OWED:
        delivery = tried(delivery, failure="timeout")
        waits.append(delivery.next_at - 200.0)
    assert len(delivery.tries) == len(DELAYS)
    assert waits[:-1] == list(DELAYS[1:])


@given(chance=chances, retry_after=st.none() | st.floats(min_value=0, max_value=1e9))
def test_the_next_try_keeps_its_jitter_and_what_the_receiver_asked_for(
    chance: float, retry_after: float | None
) -> None:
    wait = tried(OWED, status=503, retry_after=retry_after, chance=chance).next_at - 200.0
    asked = min(retry_after or 0.0, MAX_RETRY_AFTER)
    assert wait >= asked - 1e-6
    assert DELAYS[1] * (1 - JITTER) - 1e-6 <= wait <= max(DELAYS[1] * (1 + JITTER), asked) + 1e-6


def test_sending_it_again_starts_the_schedule_anew_and_keeps_the_log() -> None:
    given_up = tried(tried(OWED, failure="address_denied"), failure="address_denied")
    again = redeliver(given_up, now=300.0)
    assert (again.status, again.next_at, again.tries) == (DeliveryStatus.OWED, 300.0, given_up.tries)
    assert tried(again, failure="address_denied").status is DeliveryStatus.OWED
    assert tried(again, failure="timeout").next_at == 200.0 + DELAYS[1]


def test_the_log_of_one_that_is_sent_again_without_end_stays_short() -> None:
    delivery = OWED
    for number in range(KEPT_TRIES + 20):
        delivery = redeliver(tried(delivery, status=500 + number), now=300.0)
    assert [attempt.status for attempt in delivery.tries] == list(range(520, 520 + KEPT_TRIES))
    assert tried(delivery, failure="timeout").next_at == 200.0 + DELAYS[1]
