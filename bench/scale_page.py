"""The tables of docs/explain/scale.md.

`python -m bench.scale_page` writes them into the page anew, and `tests/test_scale_page.py` keeps them there.
"""

import re
from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path

from bench.costs import (
    CLOUDFLARE_PLAN,
    MONTH_SECONDS,
    PRICES,
    STEPS,
    SUPABASE_PLAN,
    TEND_SECONDS,
    USUAL,
    WORKS,
    Price,
    Usage,
    cheaper,
    dollars_of,
    pulls_of_an_idle_worker,
    usage_of,
)
from bench.simulation.worker import LONGEST_PAUSE_SECONDS, WAIT_SECONDS

PAGE = Path(__file__).parent.parent / "docs" / "explain" / "scale.md"
RECORD = Path(__file__).parent / "simulation" / "million.md"

QUEUE_MESSAGES_A_SECOND = 5_000
API_CALLS_A_SECOND = 1_200 / 300
OBJECT_REQUESTS_A_SECOND = 500
"""Documented: 1,000 for the simplest requests, 200 to 500 for ones that write."""
ROUTE_OBJECTS = 256
OWNER_REQUESTS = 5
"""Of a job to its owner's object: two looks and two writes for its limits, and one write at its end."""
LOOK_AT_A_ROUTE = frozenset({"renew", "event", "checkpoint"})
LOOKS_AT_ROUTES = 12
"""Of a job, beside those steps."""
ENTRIES_READ = 10_000
"""What one look at an owner's object counts at most: open jobs, and attempts that cost something in this day."""


def steps_table() -> list[str]:
    rows = [
        f"| {step.name} | {step.of} | " + " | ".join(f"{count:g}" for count in astuple(step.usage)) + " |"
        for step in STEPS
    ]
    names = " | ".join(field.name.replace("_", " ") for field in fields(Usage))
    return [f"| step | what it is | {names} |", "|---|---|" + "---:|" * len(fields(Usage)), *rows]


def jobs_table() -> list[str]:
    heads = " | ".join(
        f"{work.name}: {work.seconds:g} s, {work.events} events, {work.archive_mb:g} MB" for work in WORKS
    )
    rows = [_price_row(price) for price in PRICES]
    total = " | ".join(f"**${dollars_of(work):.4f}**" for work in WORKS)
    return [f"| per job | {heads} |", "|---|" + "---:|" * len(WORKS), *rows, f"| **together** | {total} |"]


def _price_row(price: Price) -> str:
    cells = []
    for work in WORKS:
        units = price.units(usage_of(work), work)
        cells.append(f"{units:.4g} = ${price.of(units):.6f}")
    per = "" if price.per == 1 else " a million"
    return f"| {price.name} (${price.dollars:g}{per}) | " + " | ".join(cells) + " |"


def shares_table() -> list[str]:
    """Where the ledger's part of the money goes, step by step."""
    rows = []
    for step in STEPS:
        used = step.usage * step.times(USUAL)
        dollars = sum(price.of(price.units(used, USUAL)) for price in PRICES if "Supabase" not in price.name)
        rows.append(f"| {step.name} | {step.times(USUAL):g} | ${dollars:.6f} |")
    return ["| step of a usual job | times | dollars |", "|---|---:|---:|", *rows]


def cheaper_table() -> list[str]:
    rows = [f"| {name} | ${dollars_of(USUAL, steps):.4f} |" for name, steps in cheaper().items()]
    return ["| a usual job | dollars |", "|---|---:|", *rows]


def limits_table() -> list[str]:
    """The lowest first."""
    day = ENTRIES_READ / 86400
    by_pushes = API_CALLS_A_SECOND / USUAL.follows
    by_owner = OBJECT_REQUESTS_A_SECOND / OWNER_REQUESTS
    by_messages = QUEUE_MESSAGES_A_SECOND / (1 + USUAL.follows)
    looks = LOOKS_AT_ROUTES + sum(step.times(USUAL) for step in STEPS if step.name in LOOK_AT_A_ROUTE)
    by_routes = OBJECT_REQUESTS_A_SECOND * ROUTE_OBJECTS / looks
    session = usage_of(USUAL).object_requests / USUAL.seconds
    return [
        _row("limit", "what meets it", "so at most"),
        "|---|---|---|",
        _row(
            f"an owner's object counts {ENTRIES_READ:,} entries in one look (ours)",
            "an entry for each attempt of the owner's day that cost something",
            f"**{day:.2f} jobs/s of one owner**, {ENTRIES_READ:,} a day; beyond, its spending is counted too low",
        ),
        _row(
            "1,200 calls of Cloudflare's API in 5 minutes; pulls and acks are exempt, pushes are not",
            f"workers push {USUAL.follows:g} messages a job",
            f"**{by_pushes:.0f} jobs/s of the account**; a bell refused is rung by the alarm, 20 s later",
        ),
        _row(
            f"about {OBJECT_REQUESTS_A_SECOND} requests/s of an object that writes",
            f"{OWNER_REQUESTS} a job to its owner's object",
            f"{by_owner:.0f} jobs/s of one owner",
        ),
        _row(
            f"the same, of {ROUTE_OBJECTS} objects with routes",
            f"{looks:.0f} looks a job",
            f"{by_routes:,.0f} jobs/s",
        ),
        _row(
            f"{QUEUE_MESSAGES_A_SECOND:,} messages/s of a queue",
            f"{1 + USUAL.follows:g} a job",
            f"{by_messages:,.0f} jobs/s",
        ),
        _row(
            "500 requests/s of a session's object",
            f"{session:.1f} while its job runs",
            "not met: one job runs at a time",
        ),
        _row(
            "1 write/s of a key of KV",
            "3 in the life of a job",
            "not met, but by jobs that start or end within a second; the final status is written again",
        ),
    ]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def idle_table() -> list[str]:
    price = next(price for price in PRICES if price.name == "queue operations")
    now = pulls_of_an_idle_worker() / WAIT_SECONDS
    rows = []
    for name, rate in (
        ("as it is: the pauses begin anew with each wait of the loop", now),
        (f"if they did not: one pull each {LONGEST_PAUSE_SECONDS:g} s", 1 / LONGEST_PAUSE_SECONDS),
    ):
        month = price.of(rate * MONTH_SECONDS)
        rows.append(f"| {name} | {rate:.2f} | ${month:.2f} | ${month * 1000:,.0f} |")
    return [
        "| polling | pulls/s | one idle worker, a month | 1,000 idle workers, a month |",
        "|---|---:|---:|---:|",
        *rows,
    ]


def waiting_table() -> list[str]:
    alarm = next(step.usage for step in STEPS if step.name == "alarm")
    hour = sum(price.of(price.units(alarm, USUAL)) for price in PRICES if price.name.startswith("object"))
    hour *= 3600 / TEND_SECONDS
    rows = [
        f"| {count:,} | ${hour * count:,.2f} | ${hour * count * 24:,.2f} |"
        for count in (1, 10_000, 1_000_000)
    ]
    return ["| sessions with a waiting job | an hour | a day |", "|---:|---:|---:|", *rows]


def fleet_table() -> list[str]:
    """1,000 workers that are busy seven tenths of the time, for a month."""
    jobs = 1_000 * 0.7 * MONTH_SECONDS / USUAL.seconds
    idle = 300 * MONTH_SECONDS * pulls_of_an_idle_worker() / WAIT_SECONDS
    used = usage_of(USUAL) * jobs + Usage(queue_operations=idle)
    rows, total = [], CLOUDFLARE_PLAN + SUPABASE_PLAN
    for price in PRICES:
        units = price.units(used, USUAL) if "Supabase" not in price.name else price.units(used, USUAL) * jobs
        dollars = price.of(max(units - price.included, 0.0))
        total += dollars
        rows.append(f"| {price.name} | {units:,.0f} | {price.included:,.0f} | ${dollars:,.0f} |")
    plans = f"| the plans themselves | | | ${CLOUDFLARE_PLAN + SUPABASE_PLAN:,.0f} |"
    each = total / jobs
    last = f"| **{jobs:,.0f} jobs, {jobs / MONTH_SECONDS:.2f} a second** | | | **${total:,.0f}**, ${each:.4f} a job |"
    return ["| a month | used | included | dollars |", "|---|---:|---:|---:|", *rows, plans, last]


TABLES: dict[str, Callable[[], list[str]]] = {
    "steps": steps_table,
    "jobs": jobs_table,
    "shares": shares_table,
    "cheaper": cheaper_table,
    "limits": limits_table,
    "idle": idle_table,
    "waiting": waiting_table,
    "fleet": fleet_table,
    "million": lambda: RECORD.read_text().splitlines(),
}


def rewritten(page: str) -> str:
    """The page with each table between its marks made anew."""

    def table(found: re.Match[str]) -> str:
        lines = "\n".join(TABLES[found["name"]]())
        return f"<!-- table: {found['name']} -->\n{lines}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
