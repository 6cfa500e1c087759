"""`overnight run`: from a prompt to its outcome."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console

from overnight.cli.connect import Connected, connected, near
from overnight.cli.exits import BY_STATUS, Exit, Unable
from overnight.cli.follow import follow
from overnight.cli.show import Silent, as_json, following, outcome, say, terminal
from overnight.cli.text import visible
from overnight.client import Job, JobOptions, Submitted
from overnight.domain.archive_names import alias_name
from overnight.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    prompt: str
    session_id: str | None = None
    detach: bool = False
    json: bool = False
    options: JobOptions = field(default_factory=JobOptions)


def read_prompt(words: str | None, file: str | None) -> str:
    """The prompt from the command line, a file, or (`-`) the standard input. Raises Unable, OSError."""
    if (words is None) == (file is None):
        raise Unable("give a prompt in quotes, or --file PATH (- for the standard input)", Exit.USAGE)
    if file is None:
        text = words or ""
    else:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise Unable("the prompt is not UTF-8 text", Exit.USAGE) from None
    if not text.strip():
        raise Unable("the prompt is empty", Exit.USAGE)
    return text


async def run(settings: Settings, order: Order) -> Exit:
    async with connected(settings, works=True, may_start=not order.detach) as link:
        submitted = await link.client.submit(order.prompt, order.session_id, **order.options)
        if order.detach:
            return _detached(link, submitted, order)
        job = await _followed(link, submitted, order)
        if job is None:
            return _left(link, submitted)
        if order.json:
            typer.echo(as_json(job))
        else:
            _tell_outcome(terminal(), link, job)
        return BY_STATUS.get(job.status, Exit.FAILED)


async def _followed(link: Connected, submitted: Submitted, order: Order) -> Job | None:
    if order.json:
        return await follow(link.client, submitted.job_id, Silent())
    console = terminal()
    say(console, f"job {submitted.job_id}", "bold")
    with following(console, tells_end=False) as story:
        job = await follow(link.client, submitted.job_id, story)
        story.end(result=job.result if job else None)
    return job


def _detached(link: Connected, submitted: Submitted, order: Order) -> Exit:
    if order.json:
        typer.echo(as_json(submitted))
    else:
        typer.echo(f"job {submitted.job_id} of session {submitted.session_id} is queued")
        typer.echo(f"follow it:  overnight logs -f {submitted.job_id}{link.there}")
    return Exit.OK


def _left(link: Connected, submitted: Submitted) -> Exit:
    job, there = submitted.job_id, link.there
    if link.service.temporary:
        said = f"job {job} is kept and goes on as soon as a service runs: overnight serve{there}"
    else:
        said = f"job {job} goes on without you"
    typer.echo(f"\n{said}", err=True)
    typer.echo(f"follow it:  overnight logs -f {job}{there}", err=True)
    typer.echo(f"cancel it:  overnight cancel {job}{there}", err=True)
    return Exit.INTERRUPTED


def _tell_outcome(console: Console, link: Connected, job: Job) -> None:
    told = outcome(job)
    say(console, f"{told.mark} {told.text}", told.style)
    if job.error is not None:
        say(console, visible(f"  {job.error.message}"))
    if job.result:
        say(console, f"\n{visible(job.result).strip()}\n")
    if job.status == "failed":
        say(console, f"try again:   overnight retry {job.job_id}{link.there}", "dim")
    say(console, f'go on:       overnight run --session {job.session_id}{link.there} "..."', "dim")
    if job.archive:
        say(console, f"archive:     {_archive(link, job)}", "dim")


def _archive(link: Connected, job: Job) -> str:
    """Where the session's zip is: the file if it is on this machine, else how to get it."""
    if link.service.data is not None:
        file = link.service.data / "archives" / alias_name(job.session_id)
        if file.exists():
            return visible(shlex.quote(str(near(file))))
    return f"overnight sessions download {job.session_id}{link.there}"
