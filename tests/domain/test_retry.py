import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.errors import ErrorCode
from overnight.domain.job import Job, Status
from overnight.domain.retry import FAILURES, Failure, RetryPolicy, retry_at

POLICY = RetryPolicy(delays=(10.0, 60.0, 300.0), jitter=0.2, max_losses=10)
NOW = 1_000_000.0

chances = st.floats(min_value=0, max_value=1, exclude_max=True)


def job(*, failures: int = 0, losses: int = 0, parks: int = 0, created_at: float = NOW) -> Job:
    return Job(
        job_id="j",
        session_id="s",
        status=Status.PROCESSING,
        created_at=created_at,
        available_at=created_at,
        failures=failures,
        losses=losses,
        parks=parks,
    )


def test_every_code_is_in_the_table() -> None:
    assert set(FAILURES) == set(ErrorCode)


@pytest.mark.parametrize("code", [code for code in ErrorCode if FAILURES[code] is Failure.PERMANENT])
def test_what_would_fail_again_is_not_tried_again(code: ErrorCode) -> None:
    assert retry_at(code, job(), policy=POLICY, now=NOW, chance=0.5) is None


@pytest.mark.parametrize(("failures", "delay"), [(0, 10.0), (1, 60.0), (2, 300.0)])
def test_the_delays_grow(failures: int, delay: float) -> None:
    at = retry_at(ErrorCode.OVERLOADED, job(failures=failures), policy=POLICY, now=NOW, chance=0.5)
    assert at == NOW + delay


def test_there_are_as_many_retries_as_delays() -> None:
    assert retry_at(ErrorCode.OVERLOADED, job(failures=3), policy=POLICY, now=NOW, chance=0.5) is None
    never = RetryPolicy(delays=())
    assert retry_at(ErrorCode.OVERLOADED, job(), policy=never, now=NOW, chance=0.5) is None


@given(chance=chances)
def test_the_jitter_stays_within_its_share(chance: float) -> None:
    at = retry_at(ErrorCode.OVERLOADED, job(), policy=POLICY, now=NOW, chance=chance)
    assert at is not None
    assert NOW + 8.0 <= at <= NOW + 12.0


def test_the_first_loss_of_a_worker_costs_no_wait_and_later_ones_do() -> None:
    def after(losses: int) -> float | None:
        return retry_at(ErrorCode.WORKER_LOST, job(losses=losses), policy=POLICY, now=NOW, chance=0.5)

    assert [after(losses) for losses in (0, 1, 3, 9)] == [NOW, NOW + 10, NOW + 300, NOW + 300]
    assert after(10) is None


def test_losses_are_counted_apart_from_failures() -> None:
    assert retry_at(ErrorCode.WORKER_LOST, job(failures=99), policy=POLICY, now=NOW, chance=0.5) == NOW
    assert retry_at(ErrorCode.OVERLOADED, job(losses=99), policy=POLICY, now=NOW, chance=0.5) == NOW + 10


def test_lost_workers_are_tolerated_also_without_retries() -> None:
    never = RetryPolicy(delays=())
    at = retry_at(ErrorCode.WORKER_LOST, job(losses=1), policy=never, now=NOW, chance=0.5)
    assert at == NOW


@given(chance=chances, wait=st.floats(min_value=-1e6, max_value=86400), failures=st.integers(0, 99))
def test_a_rate_limit_is_never_tried_before_it_resets(chance: float, wait: float, failures: int) -> None:
    """However often the job has failed: waiting costs no retry."""
    at = retry_at(
        ErrorCode.RATE_LIMITED,
        job(failures=failures),
        policy=POLICY,
        now=NOW,
        chance=chance,
        resume_at=NOW + wait,
    )
    assert at is not None
    assert max(NOW, NOW + wait) <= at <= max(NOW, NOW + wait) + 5.0


@given(parks=st.integers(0, 10_000), chance=chances)
def test_a_rate_limit_of_unknown_length_waits_longer_each_time_up_to_a_bound(
    parks: int, chance: float
) -> None:
    at = retry_at(ErrorCode.RATE_LIMITED, job(parks=parks), policy=POLICY, now=NOW, chance=chance)
    assert at is not None
    assert math.isclose(at - NOW, min(60.0 * 2.0 ** min(parks, 20), 900.0), rel_tol=0.2 + 1e-9)


def test_patience_with_rate_limits_ends() -> None:
    old = job(created_at=NOW - 7 * 86400)
    assert retry_at(ErrorCode.RATE_LIMITED, old, policy=POLICY, now=NOW, chance=0.5) is None
