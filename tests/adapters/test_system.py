"""The real clock and randomness make what the domain accepts."""

import time

from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.domain.ids import parse_delivery_id, parse_uuid


def test_job_ids_of_a_process_rise_also_within_a_millisecond() -> None:
    entropy = SystemEntropy()
    made = [entropy.job_id() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert {(job_id[14], job_id[19] in "89ab") for job_id in made} == {("7", True)}


def test_a_job_id_holds_its_time() -> None:
    before = int(time.time() * 1000)
    made = parse_uuid(SystemEntropy().job_id())
    assert before <= int(made[:13].replace("-", ""), 16) <= time.time() * 1000


def test_ids_are_as_the_domain_wants_them_and_differ() -> None:
    entropy = SystemEntropy()
    assert parse_uuid(entropy.session_id()) != entropy.session_id()
    assert parse_delivery_id(entropy.delivery_id()) != entropy.delivery_id()
    assert len(entropy.token()) == 43
    assert entropy.token() != entropy.token()


def test_chances_fill_the_unit_interval() -> None:
    entropy = SystemEntropy()
    chances = [entropy.chance() for _ in range(1_000)]
    assert 0.0 <= min(chances) < 0.1
    assert 0.9 < max(chances) < 1.0


def test_the_clock_tells_unix_seconds() -> None:
    assert abs(SystemClock().now() - time.time()) < 60
