"""What a call of the Messages API costs: the only price list here, in $ per million tokens.

Source: Anthropic's price list (platform.claude.com/docs/en/about-claude/pricing and the pages of the models), as
of 2026-11-24. It is the list price: discounts and batches are not known here. A model that is not in the table
costs as much as the dearest one, so that a budget errs on the safe side.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from overnight.domain.job import Usage

MILLION = 1_000_000
WRITE_5_MINUTES = 1.25
"""Writing to the cache, as a multiple of the input price."""
WRITE_1_HOUR = 2.0
WEB_SEARCH_USD = 0.01
FAST = 6.0
"""`speed: fast` costs 2 to 6 times as much, by model; the dearest is taken."""
_LATER = re.compile(r"-\d{1,2}(?!\d)")
"""A version behind the name of an earlier one; a date has more digits."""
US_ONLY = 1.1
"""`inference_geo: us`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """`long` is the price of all tokens of a call whose prompt has over `long_above` tokens."""

    input: float
    output: float
    cache_read: float
    long_above: int = 0
    long: "Price | None" = None

    def of_prompt(self, tokens: int) -> "Price":
        return self.long if self.long is not None and tokens > self.long_above else self


_HAIKU_LONG = Price(input=0.5, output=2.5, cache_read=0.05)
_DEAREST = Price(input=15.0, output=75.0, cache_read=1.5)

PRICES: Mapping[str, Price] = {
    "claude-fable-5-1": Price(input=10.0, output=50.0, cache_read=0.25),
    "claude-mythos-5-1": Price(input=10.0, output=50.0, cache_read=0.25),
    "claude-fable-5": Price(input=10.0, output=50.0, cache_read=1.0),
    "claude-mythos-5": Price(input=10.0, output=50.0, cache_read=1.0),
    "claude-opus-5-5": Price(input=4.0, output=20.0, cache_read=0.2),
    "claude-opus-5": Price(input=5.0, output=25.0, cache_read=0.5),
    "claude-opus-4-8": Price(input=5.0, output=25.0, cache_read=0.5),
    "claude-opus-4-7": Price(input=5.0, output=25.0, cache_read=0.5),
    "claude-opus-4-6": Price(input=5.0, output=25.0, cache_read=0.5),
    "claude-opus-4-5": Price(input=5.0, output=25.0, cache_read=0.5),
    "claude-opus-4-1": _DEAREST,
    "claude-opus-4": _DEAREST,
    "claude-sonnet-5-5": Price(input=2.0, output=10.0, cache_read=0.1),
    "claude-sonnet-5": Price(input=2.0, output=10.0, cache_read=0.2),
    "claude-sonnet-4-6": Price(input=3.0, output=15.0, cache_read=0.3),
    "claude-sonnet-4-5": Price(input=3.0, output=15.0, cache_read=0.3),
    "claude-sonnet-4": Price(input=3.0, output=15.0, cache_read=0.3),
    "claude-haiku-5-5": Price(input=0.1, output=0.5, cache_read=0.01, long_above=100_000, long=_HAIKU_LONG),
    "claude-haiku-4-5": Price(input=1.0, output=5.0, cache_read=0.1),
}
"""By the beginning of a model's name; of several that fit, the longest counts."""


@dataclass(frozen=True, slots=True)
class Metered:
    """What was used, and what it costs in US dollars. `least_usd` leaves out what can only be guessed: models that
    are not in the table, and what `speed: fast` adds."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    least_usd: float = 0.0

    def __add__(self, other: "Metered") -> "Metered":
        return Metered(
            self.usage + other.usage, self.cost_usd + other.cost_usd, self.least_usd + other.least_usd
        )

    @property
    def tokens(self) -> int:
        usage = self.usage
        read = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
        return read + usage.output_tokens


def _price_of(model: str) -> tuple[Price, bool]:
    """And whether it is known to be its own: that of an earlier version is a guess, and of no version at all."""
    fitting = [
        name for name in PRICES if model == name or model.startswith((f"{name}-", f"{name}[", f"{name}@"))
    ]
    if not fitting:
        return _DEAREST, False
    name = max(fitting, key=len)
    return PRICES[name], _LATER.match(model, len(name)) is None


def usage_of(reported: Mapping[str, Any]) -> Usage:
    """From the `usage` of a message, whatever is in it: what is no count counts as nothing."""
    return Usage(
        input_tokens=_count(reported, "input_tokens"),
        output_tokens=_count(reported, "output_tokens"),
        cache_creation_input_tokens=_count(reported, "cache_creation_input_tokens"),
        cache_read_input_tokens=_count(reported, "cache_read_input_tokens"),
    )


def metered(model: str, reported: Mapping[str, Any]) -> Metered:
    """From the `usage` of an answer of the API."""
    usage, (price, is_own) = usage_of(reported), _price_of(model)
    hour = min(
        _count(_part(reported, "cache_creation"), "ephemeral_1h_input_tokens"),
        usage.cache_creation_input_tokens,
    )
    searches = _count(_part(reported, "server_tool_use"), "web_search_requests") * WEB_SEARCH_USD
    tokens = _cost(price, usage, hour)
    tokens *= US_ONLY if reported.get("inference_geo") == "us" else 1.0
    fast = FAST if reported.get("speed") == "fast" else 1.0
    least = searches + (tokens if is_own else 0.0)
    return Metered(usage, round(tokens * fast + searches, 9), round(least, 9))


def _cost(price: Price, usage: Usage, hour: int) -> float:
    prompt = replace(usage, output_tokens=0)
    price = price.of_prompt(Metered(prompt).tokens)
    written = (usage.cache_creation_input_tokens - hour) * WRITE_5_MINUTES + hour * WRITE_1_HOUR
    read = usage.cache_read_input_tokens * price.cache_read
    return (
        (usage.input_tokens + written) * price.input + usage.output_tokens * price.output + read
    ) / MILLION


def _part(reported: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = reported.get(name)
    return value if isinstance(value, dict) else {}


def _count(reported: Mapping[str, Any], name: str) -> int:
    value = reported.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0
