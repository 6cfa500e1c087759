"""The token bucket of a key."""

from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.pace import Bucket, take


def test_a_minutes_worth_may_come_at_once_and_then_one_by_one() -> None:
    bucket = None
    for _ in range(60):
        bucket, wait = take(bucket, per_minute=60, now=0.0)
        assert wait == 0
    bucket, wait = take(bucket, per_minute=60, now=0.0)
    assert wait == 1.0
    bucket, wait = take(bucket, per_minute=60, now=1.0)
    assert wait == 0
    assert take(bucket, per_minute=60, now=1.5)[1] == 0.5


@given(
    per_minute=st.integers(1, 1000),
    gaps=st.lists(st.floats(0, 100), min_size=1, max_size=200),
)
def test_never_more_than_the_rate_and_one_minutes_worth(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = None, 0.0, 0
    for gap in gaps:
        now += gap
        bucket, wait = take(bucket, per_minute=per_minute, now=now)
        taken += wait == 0
        assert taken <= per_minute * (1 + now / 60) + 1e-6


@given(per_minute=st.integers(1, 1000), tokens=st.floats(0, 0.99))
def test_after_the_wait_that_was_named_there_is_room(per_minute: int, tokens: float) -> None:
    bucket, wait = take(Bucket(tokens, 0.0), per_minute=per_minute, now=0.0)
    assert take(bucket, per_minute=per_minute, now=wait + 1e-6)[1] == 0


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing() -> None:
    bucket, wait = take(Bucket(5.0, 100.0), per_minute=60, now=50.0)
    assert (bucket, wait) == (Bucket(4.0, 50.0), 0.0)
