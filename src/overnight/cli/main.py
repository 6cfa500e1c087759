"""The commands and their options. `docs/cli.md` lists them, and a test keeps the two alike."""

# ruff: noqa: PLC0415 - a command imports what it does when it is called, so that the others start quickly

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from overnight.cli.archive_app import archive_app
from overnight.cli.cloudflare_app import cloudflare_app
from overnight.cli.exits import Exit, finish
from overnight.cli.keys_app import keys_app
from overnight.cli.loading import load_settings as _settings
from overnight.domain.job import Status

app = typer.Typer(
    help="Runs Claude Code in the background: a durable queue, a sandbox, sessions kept as zips.",
    epilog="First steps: `overnight serve --rehearsal` (free: no model is called), then in another terminal "
    '`overnight run "PROMPT"`. Without a service, `run` starts one for the call.',
    no_args_is_help=True,
    rich_markup_mode=None,  # markup would swallow what stands in brackets: the defaults
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
sessions_app = typer.Typer(help="Conversations with their files.", no_args_is_help=True)
app.add_typer(sessions_app, name="sessions")
app.add_typer(keys_app, name="keys")
app.add_typer(archive_app, name="archive")
app.add_typer(cloudflare_app, name="cloudflare")

Url = Annotated[
    str | None, typer.Option("--url", help="The service to talk to; by default the one on this machine.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Directory that everything is kept in [default: ~/.local/share/overnight].",
        metavar="DIR",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", min=1, help="Runs at once [default: 2].")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", show_default=False)]
SessionId = Annotated[str, typer.Argument(metavar="ID", help="Id of the session.", show_default=False)]


def main() -> None:
    """The program `overnight`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a tick that the terminal cannot show stops nothing
    app()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one [default: 8080]."),
    ] = None,
    data: Data = None,
    rehearsal: Annotated[
        bool,
        typer.Option("--rehearsal", help="Use the built-in stand-in for Anthropic's API: free, offline."),
    ] = False,
    concurrency: Concurrency = None,
) -> None:
    """Run the service: HTTP API and worker, until Ctrl-C or SIGTERM.

    Running jobs are then saved, and go on at the next start.
    """
    settings = _settings(
        host=host, port=port, data=data, rehearsal=rehearsal or None, concurrency=concurrency
    )
    from overnight.cli import serve

    finish(serve.serve(settings))


@app.command()
def worker(data: Data = None, concurrency: Concurrency = None) -> None:
    """Add a worker to a service on the same machine."""
    settings = _settings(data=data, concurrency=concurrency)
    from overnight.cli import serve

    finish(serve.worker(settings))


@app.command()
def run(
    prompt: Annotated[str | None, typer.Argument(help="What to do.", show_default=False)] = None,
    session: Annotated[str | None, typer.Option(help="Go on with this session.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job to end.")] = False,
    json: AsJson = False,
    model: Annotated[str | None, typer.Option(help="Model to use.")] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Most turns of the agent.")] = None,
    max_budget_usd: Annotated[
        float | None, typer.Option(min=0, help="Most that the job may cost, in US dollars.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Most seconds that one attempt may run [default: the service's cap]."),
    ] = None,
    callback_url: Annotated[
        str | None, typer.Option(help="Address that gets a signed webhook when the job has ended.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Read the prompt from a file; - is standard input.")
    ] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Submit a job and follow it; the exit status says how it ended."""
    settings = _settings(url=url, data=data)
    from overnight.cli import run
    from overnight.client import JobOptions

    options = JobOptions(
        model=model,
        max_turns=max_turns,
        max_budget_usd=max_budget_usd,
        timeout_seconds=timeout,
        callback_url=callback_url,
    )

    async def work() -> Exit:
        text = run.read_prompt(prompt, file)
        order = run.Order(prompt=text, session_id=session, detach=detach, json=json, options=options)
        return await run.run(settings, order)

    finish(work())


@app.command()
def status(job: JobId, json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show a job."""
    settings = _settings(url=url, data=data)
    from overnight.cli import jobs

    finish(jobs.status(settings, job, json=json))


@app.command()
def jobs(
    status: Annotated[
        list[Status] | None, typer.Option(help="Only jobs of this status; may be given again.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only jobs of this session.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List jobs, newest first."""
    settings = _settings(url=url, data=data)
    from overnight.cli import jobs

    finish(
        jobs.listing(settings, statuses=[*map(str, status or [])], session_id=session, limit=limit, json=json)
    )


@app.command()
def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Tell what happened in a job."""
    settings = _settings(url=url, data=data)
    from overnight.cli import jobs

    finish(jobs.logs(settings, job, live=follow, json=json))


@app.command()
def cancel(job: JobId, url: Url = None, data: Data = None) -> None:
    """Stop a job, whether it waits or runs."""
    settings = _settings(url=url, data=data)
    from overnight.cli import jobs

    finish(jobs.cancel(settings, job))


@app.command()
def retry(job: JobId, url: Url = None, data: Data = None) -> None:
    """Send a failed job again."""
    settings = _settings(url=url, data=data)
    from overnight.cli import jobs

    finish(jobs.retry(settings, job))


@sessions_app.command("ls")
def sessions_ls(
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """List sessions, newest first."""
    settings = _settings(url=url, data=data)
    from overnight.cli import sessions

    finish(sessions.listing(settings, limit=limit, json=json))


@sessions_app.command("show")
def sessions_show(session: SessionId, json: AsJson = False, url: Url = None, data: Data = None) -> None:
    """Show a session."""
    settings = _settings(url=url, data=data)
    from overnight.cli import sessions

    finish(sessions.show(settings, session, json=json))


@sessions_app.command("download")
def sessions_download(
    session: SessionId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write [default: ID.zip].")
    ] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Save a session's archive: its files and its conversation."""
    settings = _settings(url=url, data=data)
    from overnight.cli import sessions

    finish(sessions.download(settings, session, output))


@sessions_app.command("upload")
def sessions_upload(
    session: SessionId,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A zip.", show_default=False)],
    url: Url = None,
    data: Data = None,
) -> None:
    """Start a session from a zip of yours, under an id of yours (a UUID)."""
    settings = _settings(url=url, data=data)
    from overnight.cli import sessions

    finish(sessions.upload(settings, file, session))


@sessions_app.command("rm")
def sessions_rm(
    session: SessionId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Erase a session with its jobs and archives."""
    settings = _settings(url=url, data=data)
    if not yes:
        typer.confirm("Erase the session, its jobs and its archives for good?", abort=True)
    from overnight.cli import sessions

    finish(sessions.remove(settings, session))


@app.command()
def rehearsal(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of it; 0 takes a free one.")] = 8099,
) -> None:
    """Serve the stand-in for Anthropic's API on its own."""
    from overnight.cli import serve

    finish(serve.rehearsal(host, port))


@app.command()
def doctor(
    attack: Annotated[
        bool, typer.Option("--attack", help="Attack every tier of isolation and show what came through.")
    ] = False,
    json: AsJson = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Check that everything overnight needs is there and works."""
    settings = _settings(url=url, data=data)
    from overnight.cli import attack as attacker
    from overnight.cli import doctor

    finish((attacker.attack if attack else doctor.doctor)(settings, json=json))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version

    typer.echo(f"overnight {version('overnight')}")
