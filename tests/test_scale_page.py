"""The numbers of docs/explain/scale.md are computed, and stay so."""

import re
from dataclasses import replace

import pytest
from bench.costs import PRICES, USUAL, Usage, cheaper, dollars_of, usage_of, writes_of
from bench.scale_page import PAGE, TABLES, looks_within, rewritten
from hypothesis import given
from hypothesis import strategies as st


def test_every_table_of_the_page_is_as_computed() -> None:
    """If it fails: `.venv/bin/python -m bench.scale_page` writes them anew. Then read the prose beside them."""
    page = PAGE.read_text()
    assert rewritten(page) == page


def test_the_page_has_every_table_once() -> None:
    assert sorted(re.findall(r"<!-- table: (\w+) -->", PAGE.read_text())) == sorted(TABLES)


def test_what_a_usual_job_costs_is_what_the_page_says_in_short() -> None:
    dollars = dollars_of(USUAL)
    assert dollars == pytest.approx(0.0008, rel=0.07)
    by_name = {price.name: price.of(price.units(usage_of(USUAL), USUAL)) for price in PRICES}
    assert by_name["object rows written"] == pytest.approx(dollars / 3, rel=0.2)
    archive = by_name["Supabase storage, GB-months"] + by_name["Supabase egress, GB"]
    assert archive == pytest.approx(dollars * 2 / 5, rel=0.1)


def test_a_waiting_job_is_looked_at_a_few_times_an_hour() -> None:
    """At 20, 41, 83, ... seconds, and then every half hour."""
    assert (looks_within(3600), looks_within(86400)) == (8, 52)


@given(st.floats(1.0, 1000.0), st.integers(0, 1000), st.floats(0.0, 60.0))
def test_gathering_events_makes_fewer_writes_and_never_more_than_events(
    seconds: float, events: int, gather: float
) -> None:
    work = replace(USUAL, seconds=seconds, events=events)
    assert writes_of(work, gather) <= writes_of(work, 0.0) == events


def test_usage_is_added_and_multiplied_field_by_field() -> None:
    assert Usage(kv_reads=1, queue_operations=2) * 3 + Usage(kv_reads=1) == Usage(
        kv_reads=4, queue_operations=6
    )


def test_each_change_that_the_page_proposes_saves_money() -> None:
    prices = [dollars_of(USUAL, steps) for steps in cheaper().values()]
    assert max(prices[1:]) < prices[0]


def test_the_prices_give_what_the_service_says_of_its_own_example() -> None:
    """Queues: a million messages a day for 30 days, written, read and deleted, are $35.60."""
    price = next(price for price in PRICES if price.name == "queue operations")
    assert price.of(3 * 30 * 1e6 - price.included) == pytest.approx(35.60)
