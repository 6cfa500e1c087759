"""`overnight keys` and its options. What the commands do is in `overnight.cli.keys`."""

# ruff: noqa: PLC0415 - a command imports what it does when it is called, so that the others start quickly

from pathlib import Path
from typing import Annotated

import typer

from overnight.cli.exits import finish
from overnight.cli.loading import load_settings
from overnight.domain.keys import DEFAULT_MAX_QUEUED, DEFAULT_REQUESTS_PER_MINUTE, KeyLimits, Scope

keys_app = typer.Typer(help="API keys of the service on this data directory.", no_args_is_help=True)

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Directory that everything is kept in [default: ~/.local/share/overnight].",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key, `ovn_...`.", show_default=False)]


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Option(help="What it is for, in your words.", show_default=False)],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it allows; may be given again [default: submit, read].")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Whose jobs it sends and sees [default: its own id].")
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="When it ends [default: never].")
    ] = None,
    requests_per_minute: Annotated[
        int, typer.Option(min=1, help="Most requests a minute that change something.")
    ] = DEFAULT_REQUESTS_PER_MINUTE,
    max_queued: Annotated[
        int, typer.Option(min=0, help="Most waiting jobs of the owner.")
    ] = DEFAULT_MAX_QUEUED,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="Most running jobs of the owner [default: any number].")
    ] = None,
    daily_budget_usd: Annotated[
        float | None,
        typer.Option(
            min=0, help="Most that the owner's jobs may cost in a UTC day, in US dollars [default: any]."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model it may use, the first for jobs that name none; may be given again [default: all]."
        ),
    ] = None,
    json: AsJson = False,
    data: Data = None,
) -> None:
    """Make a key. It is shown once, with the secret that its webhooks are signed with."""
    settings = load_settings(data=data)
    from overnight.cli import keys

    limits = KeyLimits(
        requests_per_minute=requests_per_minute,
        max_queued=max_queued,
        max_running=max_running,
        daily_budget_usd=daily_budget_usd,
        models=tuple(model or ()),
    )
    order = keys.Order(
        name=name,
        owner=owner,
        scopes=frozenset(scope or (Scope.SUBMIT, Scope.READ)),
        limits=limits,
        expires_in_days=expires_in_days,
    )
    finish(keys.create(settings, order, json=json))


@keys_app.command("list")
def listing(json: AsJson = False, data: Data = None) -> None:
    """List the keys, oldest first, without their secrets."""
    settings = load_settings(data=data)
    from overnight.cli import keys

    finish(keys.listing(settings, json=json))


@keys_app.command("revoke")
def revoke(key: KeyId, data: Data = None) -> None:
    """End a key for good. A running service refuses it within a second; its jobs go on."""
    settings = load_settings(data=data)
    from overnight.cli import keys

    finish(keys.revoke(settings, key))


@keys_app.command("rotate-webhook-secret")
def rotate_webhook_secret(
    key: KeyId,
    finish_rotation: Annotated[
        bool, typer.Option("--finish", help="Stop signing with the older secret.")
    ] = False,
    json: AsJson = False,
    data: Data = None,
) -> None:
    """Make a new webhook secret. Until --finish, webhooks are signed with both."""
    settings = load_settings(data=data)
    from overnight.cli import keys

    finish(keys.rotate(settings, key, done=finish_rotation, json=json))
