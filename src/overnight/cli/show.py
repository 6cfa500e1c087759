"""The views: a job followed live on a terminal or as plain lines, and stored things as tables."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from overnight.cli.story import Line, doing, line
from overnight.cli.text import columns, duration, moment, money, size, visible
from overnight.client import TERMINAL_EVENTS, Event, Job, Session


class View(Protocol):
    """Where a followed job is shown."""

    def event(self, event: Event) -> None: ...


class Silent:
    def event(self, event: Event) -> None:
        pass


class JsonLines:
    def event(self, event: Event) -> None:
        typer.echo(as_json(event))


@dataclass
class Story:
    """Events as lines. The last words of an agent are its result, so words wait until something follows:
    whoever prints the result does not print it twice."""

    console: Console
    tells_end: bool = True
    footer: "Footer | None" = None
    _held: Line | None = None

    def event(self, event: Event) -> None:
        if self.footer is not None:
            self.footer.take(event)
        told = line(event)
        if event.type == "agent.text" and told is not None:
            self._tell(self._held)
            self._held = told
        elif told is not None and (event.type not in TERMINAL_EVENTS or self.tells_end):
            self._tell(self._held)
            self._held = None
            self._tell(told)

    def end(self, *, result: str | None) -> None:
        """Tell words that are still held, unless they are the result."""
        if self._held is not None and self._held.text != visible(result or "").strip():
            self._tell(self._held)
        self._held = None

    def _tell(self, told: Line | None) -> None:
        if told is not None:
            indented = told.text.replace("\n", "\n  ")
            say(self.console, f"{told.mark} {indented}", told.style)


@dataclass
class Footer:
    """The moving line under a followed job."""

    started: float
    doing: str = "queued"
    cost: float = 0.0
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))

    def take(self, event: Event) -> None:
        self.doing = doing(event) or self.doing
        spent = event.data.get("cost_usd")
        if event.type == "agent.result" and isinstance(spent, int | float):
            self.cost += spent

    def __rich__(self) -> Spinner:
        spent = f" · {money(self.cost)}" if self.cost else ""
        words = f"{self.doing} · {duration(time.monotonic() - self.started)}{spent}"
        self._spinner.update(text=Text(words, style="dim"))
        return self._spinner


@contextmanager
def following(console: Console, *, tells_end: bool) -> Iterator[Story]:
    """A view with a moving footer on a terminal, and without one elsewhere."""
    if not console.is_terminal:
        yield Story(console, tells_end)
        return
    footer = Footer(started=time.monotonic())
    with Live(footer, console=console, transient=True, refresh_per_second=10):
        yield Story(console, tells_end, footer)


def terminal() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text that is safe already, without rich's own wrapping when it goes to a file or a pipe."""
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def as_json(value: Any) -> str:
    """One line of JSON in ASCII, so that nothing in it can steer a terminal."""
    return json.dumps(msgspec.to_builtins(value))


def outcome(job: Job) -> Line:
    took = (
        duration((job.completed_at - job.started_at).total_seconds())
        if job.completed_at and job.started_at
        else ""
    )
    turns = f"{job.num_turns} turn{'' if job.num_turns == 1 else 's'}" if job.num_turns else ""
    facts = " · ".join(fact for fact in (took, turns, money(job.cost_usd) if job.cost_usd else "") if fact)
    mark, style = {"completed": ("✓", "green"), "failed": ("✗", "red")}.get(job.status, ("■", "yellow"))
    return Line(mark, f"{job.status}{f' in {facts}' if facts else ''}", style)


def job_page(job: Job) -> list[str]:
    """A job with all that is known about it."""
    rows = [("job", job.job_id), ("session", job.session_id), ("status", _status(job))]
    rows += [("created", moment(job.created_at)), ("started", moment(job.started_at))]
    rows += [("completed", moment(job.completed_at))] if job.completed_at else []
    rows += [("attempt", str(job.attempt)), ("cost", money(job.cost_usd)), ("turns", str(job.num_turns))]
    rows += [("isolation", visible(job.isolation))] if job.isolation else []
    rows += [("archive", visible(job.archive))] if job.archive else []
    rows += [(visible(f"metadata {name}"), visible(value)) for name, value in job.metadata.items()]
    lines = columns(rows)
    if job.error is not None:
        lines += ["", visible(f"{job.error.code}: {job.error.message}")]
    if job.result is not None:
        lines += ["", visible(job.result)]
    return lines


def job_table(jobs: Sequence[Job]) -> list[str]:
    head = ("JOB", "STATUS", "CREATED", "COST", "SESSION")
    rows = [
        (job.job_id, job.status, moment(job.created_at), money(job.cost_usd), job.session_id) for job in jobs
    ]
    return columns([head, *rows])


def session_table(sessions: Sequence[Session]) -> list[str]:
    head = ("SESSION", "JOBS", "LAST USED", "COST", "ARCHIVE")
    rows = [
        (each.session_id, str(each.jobs), moment(each.updated_at), money(each.cost_usd), _archive(each))
        for each in sessions
    ]
    return columns([head, *rows])


def session_page(session: Session) -> list[str]:
    rows = [("session", session.session_id), ("created", moment(session.created_at))]
    rows += [("last used", moment(session.updated_at)), ("jobs", str(session.jobs))]
    rows += [("cost", money(session.cost_usd)), ("archive", _archive(session))]
    rows += [("waiting", job_id) for job_id in session.line]
    if session.archive is not None:
        rows += [("name", visible(session.archive.name)), ("sha256", visible(session.archive.sha256))]
    return columns(rows)


def _archive(session: Session) -> str:
    return size(session.archive.size) if session.archive else "-"


_WAITS = {
    "session": "an earlier job of its session is still open",
    "retry": "its last try failed; the next is due {at}",
    "rate_limit": "a rate limit; it goes on {at}",
    "owner_limit": "a running job of its owner to end: its key allows no more at once",
    "budget": "the budget of its owner's day; it goes on {at}",
}


def _status(job: Job) -> str:
    if job.cancel_requested_at is not None and not job.final:
        return f"{job.status} (cancelling)"
    reason = _WAITS.get(job.waiting_for or "")
    return f"{job.status} (waits for: {reason.format(at=moment(job.available_at))})" if reason else job.status
