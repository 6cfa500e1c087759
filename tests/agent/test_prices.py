"""The price list, and the meter that reads what it applies to."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.agent.metering import Meter, Question
from overnight.agent.prices import Metered, metered
from overnight.domain.job import Usage

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("claude-opus-5-5", 20.0),
        ("claude-opus-5-5[1m]", 20.0),
        ("claude-opus-5", 25.0),
        ("claude-opus-5-20260724", 25.0),
        ("claude-opus-4-1-20250805", 75.0),
        ("claude-sonnet-5-5", 10.0),
        ("claude-sonnet-4-6", 15.0),
        ("claude-haiku-4-5-20251001", 5.0),
    ],
)
def test_the_price_of_a_model(model: str, output: float) -> None:
    counted = metered(model, {"output_tokens": MILLION})
    assert (counted.cost_usd, counted.least_usd) == (output, output)


@pytest.mark.parametrize("model", ["claude-opus-55", "opus", ""])
def test_another_model_may_cost_as_much_as_the_dearest(model: str) -> None:
    counted = metered(model, {"output_tokens": MILLION, "server_tool_use": {"web_search_requests": 1}})
    assert (counted.cost_usd, counted.least_usd) == (75.01, 0.01)


@pytest.mark.parametrize(
    ("model", "output"), [("claude-opus-5-6", 25.0), ("claude-fable-5-2-20270101", 50.0)]
)
def test_a_version_that_is_not_listed_has_the_price_of_its_family_as_a_guess(
    model: str, output: float
) -> None:
    counted = metered(model, {"output_tokens": MILLION})
    assert (counted.cost_usd, counted.least_usd) == (output, 0.0)


def test_each_kind_of_token_has_its_price() -> None:
    def cost(**usage: Any) -> float:
        return metered("claude-sonnet-5-5", usage).cost_usd

    assert cost(input_tokens=MILLION) == 2.0
    assert cost(cache_read_input_tokens=MILLION) == 0.1
    assert cost(cache_creation_input_tokens=MILLION) == 2.5
    hour = {"ephemeral_1h_input_tokens": MILLION}
    assert cost(cache_creation_input_tokens=MILLION, cache_creation=hour) == 4.0
    assert cost(server_tool_use={"web_search_requests": 3}) == 0.03
    assert cost(input_tokens=MILLION, speed="fast") == 12.0
    assert metered("claude-sonnet-5-5", {"input_tokens": MILLION, "speed": "fast"}).least_usd == 2.0
    assert cost(input_tokens=MILLION, inference_geo="us") == 2.2


def test_a_long_prompt_can_cost_more() -> None:
    assert metered("claude-haiku-5-5", {"input_tokens": 100_000}).cost_usd == 0.01
    longer = {"input_tokens": 1, "cache_read_input_tokens": 100_000}
    assert metered("claude-haiku-5-5", longer).cost_usd == pytest.approx(0.0000005 + 0.005)


@pytest.mark.parametrize("junk", [None, "7", -1, True, 1.5, [], 1 << 60])
def test_what_is_no_count_counts_as_nothing(junk: Any) -> None:
    reported = {
        "output_tokens": junk,
        "cache_creation": junk,
        "server_tool_use": {"web_search_requests": junk},
    }
    assert metered("m", reported) == Metered()


def events(*shown: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\r\ndata: {json.dumps(e)}\r\n\r\n".encode() for e in shown)


STREAM = events(
    {"type": "message_start", "message": {"model": "claude-sonnet-5-5", "usage": {"input_tokens": 9}}},
    {"type": "ping"},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "usage: ü"}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5, "input_tokens": None}},
    {"type": "message_stop"},
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_is_read_however_it_is_cut(cuts: list[int]) -> None:
    meter = Meter(Question(stream=True))
    meter.begin("text/event-stream; charset=utf-8")
    places = [0, *sorted(cuts), len(STREAM)]
    for begin, end in itertools.pairwise(places):
        meter.feed(STREAM[begin:end])
    meter.end()
    assert meter.metered.usage == Usage(input_tokens=9, output_tokens=5)


@given(st.lists(st.binary(max_size=50), max_size=20), st.booleans())
def test_whatever_comes_is_no_error(parts: list[bytes], is_stream: bool) -> None:
    meter = Meter(Question(size=300, max_tokens=7))
    meter.begin("text/event-stream" if is_stream else "application/json")
    for part in parts:
        meter.feed(part)
    meter.end()
    assert meter.metered.usage == Usage(input_tokens=100, output_tokens=7), "estimated, for nothing was told"


@pytest.mark.parametrize(
    "asked", [Question(size=32 << 20, max_tokens=1), Question(size=3, max_tokens=10**15)]
)
def test_an_estimate_is_no_more_than_the_longest_context(asked: Question) -> None:
    meter = Meter(asked)
    meter.begin("application/json")
    meter.break_off()
    usage = meter.metered.usage
    assert max(usage.input_tokens, usage.output_tokens) == MILLION
