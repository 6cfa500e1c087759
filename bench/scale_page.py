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
    PULLS_A_SECOND,
    STEPS,
    SUPABASE_PLAN,
    TEND_SECONDS,
    USUAL,
    WORKS,
    Price,
    Usage,
    cheaper,
    dollars_of,
    usage_of,
)
from bench.story import told

from overnight.adapters.cloudflare.codec import ROUTE_OBJECTS
from overnight.adapters.cloudflare.looks import Sight, after_a_look, after_a_write
from overnight.domain.job import Job, Status

PAGE = Path(__file__).parent.parent / "docs" / "explain" / "scale.md"
RECORD = Path(__file__).parent / "simulation" / "million.md"

QUEUE_MESSAGES_A_SECOND = 5_000
API_CALLS_A_SECOND = 1_200 / 300
OBJECT_REQUESTS_A_SECOND = 500
"""Documented: 1,000 for the simplest requests, 200 to 500 for ones that write."""
ROUND_TRIP_SECONDS = 0.05
"""Of a worker to the edge: a guess."""
CHANGES_OF_OWNER = 3
"""Of a job: room to wait, room to run, its end."""
BEFORE = {
    "a usual job": 0.0015,
    "its requests to the Worker": 528.7,
    "its rows written": 780.5,
    "a million waiting sessions, an hour": 449.64,
    "an idle worker, a month": 0.47,
    "a fleet of 1,000, a month": 9_097.0,
}
"""As the page said before decisions 92 to 96. It had counted by hand, and overlooked what a lease's keeper reads and
the books."""


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
    by_tally = 1 / ROUND_TRIP_SECONDS / CHANGES_OF_OWNER
    owners = sum(spent.of_owners for spent in told().values())
    by_owner = OBJECT_REQUESTS_A_SECOND / (owners + USUAL.seconds * USUAL.budgeted / 10)
    by_messages = QUEUE_MESSAGES_A_SECOND / (1 + USUAL.follows)
    looks = sum(spent.of_routes for spent in told().values())
    by_routes = OBJECT_REQUESTS_A_SECOND * ROUTE_OBJECTS / looks
    session = usage_of(USUAL).object_requests / USUAL.seconds
    return [
        _row("limit", "what meets it", "so at most"),
        "|---|---|---|",
        _row(
            f"a change of an owner's tally is a look and a write, {ROUND_TRIP_SECONDS * 1000:.0f} ms (ours)",
            f"{CHANGES_OF_OWNER} changes a job, one after the other",
            f"**{by_tally:.0f} jobs/s of one owner**; beyond, they collide and are slowed down",
        ),
        _row(
            f"about {OBJECT_REQUESTS_A_SECOND} requests/s of an object that writes",
            f"{owners} a job to its owner's object, and a look at the books each 10 s for half of them",
            f"{by_owner:.0f} jobs/s of one owner",
        ),
        _row(
            f"{QUEUE_MESSAGES_A_SECOND:,} messages/s of a queue",
            f"{1 + USUAL.follows:g} a job",
            f"{by_messages:,.0f} jobs/s",
        ),
        _row(
            f"about {OBJECT_REQUESTS_A_SECOND} requests/s, of {ROUTE_OBJECTS} objects with routes",
            f"{looks} looks a job",
            f"{by_routes:,.0f} jobs/s",
        ),
        _row(
            f"1,200 calls of Cloudflare's API in 5 minutes ({API_CALLS_A_SECOND:g}/s); pulls and acks are exempt",
            "none: the edge rings, by its binding",
            "not met",
        ),
        _row(
            f"{OBJECT_REQUESTS_A_SECOND} requests/s of a session's object",
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
    month = _idle_month()
    return [
        "| pulls/s | one idle worker, a month | 1,000 idle workers, a month |",
        "|---:|---:|---:|",
        f"| {PULLS_A_SECOND:.2f} | ${month:.2f} | ${month * 1000:,.0f} |",
    ]


def _idle_month() -> float:
    price = next(price for price in PRICES if price.name == "queue operations")
    return price.of(PULLS_A_SECOND * MONTH_SECONDS)


def waiting_table() -> list[str]:
    rows = [
        f"| {count:,} | ${_waiting(3600) * count:,.2f} | ${_waiting(86400) * count:,.2f} |"
        for count in (1, 10_000, 1_000_000)
    ]
    return ["| sessions with a waiting job | the first hour | the first day |", "|---:|---:|---:|", *rows]


def _waiting(seconds: float) -> float:
    """Dollars for the looks at a session whose job waits so long, and for the bell that each rings."""
    spent = told()["waiting alarm"]
    used = Usage(
        object_requests=spent.inner, rows_written=spent.rows_written, queue_operations=3 * spent.bells
    )
    return looks_within(seconds) * sum(
        price.of(price.units(used, USUAL)) for price in PRICES if "Supabase" not in price.name
    )


def looks_within(seconds: float) -> int:
    """Of an alarm at a job that could run from 0 on, and does not."""
    waits = Sight(first=Job(job_id="", session_id="", status=Status.QUEUED, created_at=0, available_at=0))
    count, at = 0, after_a_write(waits, now=0.0, tend_seconds=TEND_SECONDS)
    while at is not None and at <= seconds:
        count += 1
        at = after_a_look(waits, now=at, tend_seconds=TEND_SECONDS, chance=0.5)
    return count


def before_table() -> list[str]:
    used = usage_of(USUAL)
    now = dict(
        zip(
            BEFORE,
            (
                dollars_of(USUAL),
                used.worker_requests,
                used.rows_written,
                _waiting(3600) * 1_000_000,
                _idle_month(),
                _fleet()[1],
            ),
            strict=True,
        )
    )
    rows = [f"| {name} | {_money(name, was)} | {_money(name, now[name])} |" for name, was in BEFORE.items()]
    return ["| | before | now |", "|---|---:|---:|", *rows]


def _money(name: str, value: float) -> str:
    if name.startswith("its"):
        return f"{value:,.0f}"
    return f"${value:,.4f}" if value < 0.01 else f"${value:,.2f}" if value < 1000 else f"${value:,.0f}"


FLEET_JOBS = 1_000 * 0.7 * MONTH_SECONDS / USUAL.seconds
"""Of a month of 1,000 workers that are busy seven tenths of the time."""


def fleet_table() -> list[str]:
    rows, total = _fleet()
    plans = f"| the plans themselves | | | ${CLOUDFLARE_PLAN + SUPABASE_PLAN:,.0f} |"
    rate, each = FLEET_JOBS / MONTH_SECONDS, total / FLEET_JOBS
    last = f"| **{FLEET_JOBS:,.0f} jobs, {rate:.2f} a second** | | | **${total:,.0f}**, ${each:.4f} a job |"
    return ["| a month | used | included | dollars |", "|---|---:|---:|---:|", *rows, plans, last]


def _fleet() -> tuple[list[str], float]:
    """The rows of the table, and the dollars together."""
    idle = 300 * MONTH_SECONDS * PULLS_A_SECOND
    used = usage_of(USUAL) * FLEET_JOBS + Usage(queue_operations=idle)
    rows, total = [], CLOUDFLARE_PLAN + SUPABASE_PLAN
    for price in PRICES:
        units = price.units(used, USUAL) * (FLEET_JOBS if "Supabase" in price.name else 1)
        dollars = price.of(max(units - price.included, 0.0))
        total += dollars
        rows.append(f"| {price.name} | {units:,.0f} | {price.included:,.0f} | ${dollars:,.0f} |")
    return rows, total


TABLES: dict[str, Callable[[], list[str]]] = {
    "steps": steps_table,
    "jobs": jobs_table,
    "shares": shares_table,
    "cheaper": cheaper_table,
    "before": before_table,
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
