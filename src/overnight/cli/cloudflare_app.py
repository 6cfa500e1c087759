"""`overnight cloudflare` and its options. What the commands do is in `overnight.cli.cloudflare`."""

# ruff: noqa: PLC0415 - a command imports what it does when it is called, so that the others start quickly

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from overnight.cli.exits import Exit, finish, refuse
from overnight.cli.loading import load_settings
from overnight.cli.text import NO_CLIENT

cloudflare_app = typer.Typer(help="The Cloudflare front: put it there, and try it.", no_args_is_help=True)

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Directory with the edge's API keys, its ledger token and a worker's settings."
    ),
]


def _commands() -> ModuleType:
    """Ends in words where the extra is not installed."""
    try:
        from overnight.cli import cloudflare
    except ModuleNotFoundError as missing:
        if missing.name != "cloudflare":
            raise
        raise typer.Exit(refuse(NO_CLIENT, Exit.USAGE)) from None
    return cloudflare


@cloudflare_app.command("deploy")
def deploy(
    edge: Annotated[
        Path | None, typer.Option(help="The directory `edge/` of a clone [default: that of this one].")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is to be done; change nothing.")
    ] = False,
    replace_secrets: Annotated[
        bool,
        typer.Option("--replace-secrets", help="Even if the edge has secrets that the data directory lacks."),
    ] = False,
    data: Data = None,
) -> None:
    """Put the edge into the account, or bring it up to date. Run it again at any time."""
    settings = load_settings(data=data)
    cloudflare = _commands()
    order = cloudflare.Order(edge=edge, dry_run=dry_run, replace_secrets=replace_secrets)
    finish(cloudflare.deploy(settings, order))


@cloudflare_app.command("smoke")
def smoke(
    own_worker: Annotated[
        bool,
        typer.Option(
            "--own-worker",
            help="Be a worker meanwhile: it takes whatever waits in the queue, with these settings.",
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option(min=1, help="Most seconds that a worker may take for a job.")
    ] = 300.0,
    callback_url: Annotated[
        str | None, typer.Option(help="Also see that a webhook arrives: an address that answers with 2xx.")
    ] = None,
    data: Data = None,
) -> None:
    """Send a job through the edge and a worker and back, cancel another one, and leave nothing behind."""
    settings = load_settings(data=data)
    commands = _commands()
    finish(commands.smoke(settings, own_worker=own_worker, patience=wait, callback_url=callback_url))
