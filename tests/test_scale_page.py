"""The numbers of docs/explain/scale.md are computed, and stay so."""

import re

import pytest
from bench.costs import PRICES, USUAL, Usage, cheaper, dollars_of, pulls_of_an_idle_worker, usage_of
from bench.scale_page import PAGE, TABLES, rewritten


def test_every_table_of_the_page_is_as_computed() -> None:
    """If it fails: `.venv/bin/python -m bench.scale_page` writes them anew. Then read the prose beside them."""
    page = PAGE.read_text()
    assert rewritten(page) == page


def test_the_page_has_every_table_once() -> None:
    assert sorted(re.findall(r"<!-- table: (\w+) -->", PAGE.read_text())) == sorted(TABLES)


def test_what_a_usual_job_costs_is_what_the_page_says_in_short() -> None:
    assert dollars_of(USUAL) == pytest.approx(0.0015, rel=0.05)
    rows = next(price for price in PRICES if price.name == "object rows written")
    assert rows.of(rows.units(usage_of(USUAL), USUAL)) == pytest.approx(dollars_of(USUAL) / 2, rel=0.05)


def test_an_idle_worker_pulls_as_its_pauses_say() -> None:
    """At 0, 0.25, 0.75, 1.75, 3.75, 7.75, 12.75, 17.75 and 20 seconds."""
    assert pulls_of_an_idle_worker() == 9


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
