"""`overnight cloudflare`: the steps of its commands as lines, and in words how they ended."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from overnight.cli import keys
from overnight.cli.checks import any_bad
from overnight.cli.checks import tell as tell_checks
from overnight.cli.doctor_edge import edge_checks
from overnight.cli.exits import Exit, Unable
from overnight.cli.show import say, terminal
from overnight.cli.starting import explained
from overnight.cli.text import visible
from overnight.deploying.deploy import TROUBLES
from overnight.deploying.opening import opened_deployment
from overnight.deploying.smoke import SmokeFailed, opened_smoke, try_edge
from overnight.deploying.steps import Mark, StepFailed, carry_out, look_only
from overnight.domain.keys import DEFAULT_MAX_QUEUED, DEFAULT_REQUESTS_PER_MINUTE, KeyLimits, Scope
from overnight.settings import Settings, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    edge: Path | None
    dry_run: bool
    replace_secrets: bool


async def deploy(settings: Settings, order: Order) -> Exit:
    """Fails if a step could not be taken, or if what was deployed does not work."""
    make_key = partial(_first_key, settings)
    try:
        async with opened_deployment(
            settings, order.edge, make_key=make_key, replace_secrets=order.replace_secrets
        ) as deployment:
            act = look_only if order.dry_run else carry_out
            try:
                await act(deployment.steps(), _tell, troubles=TROUBLES)
            except StepFailed as failed:
                raise Unable(_how_it_stands(failed, dry=order.dry_run), Exit.FAILED) from None
            if order.dry_run:
                typer.echo("\nNothing was changed.")
                return Exit.OK
            return await _examined(await deployment.of_a_worker())
    except SettingsError as error:
        raise Unable(f"{error} Nothing was done.", Exit.USAGE) from None


async def smoke(settings: Settings, *, own_worker: bool, patience: float, callback_url: str | None) -> Exit:
    """Fails at the first step that does."""
    os.umask(0o077)  # as a worker of its own process does it
    opened = opened_smoke(settings, patience=patience, callback_url=callback_url, own_worker=own_worker)
    try:
        with explained(settings):
            async with opened as tried:
                typer.echo(
                    f"jobs go to {'a worker in this process' if own_worker else 'whichever worker runs'}"
                )
                await try_edge(tried, _tell_timed)
    except SmokeFailed as failed:
        remedy = f"\n{failed.remedy}" if failed.remedy else ""
        raise Unable(f"`{failed.step}` failed: {visible(failed.reason)}{remedy}", Exit.FAILED) from None
    typer.echo("\nThe edge and its workers do what they should.")
    return Exit.OK


def _tell_timed(step: str, told: str, seconds: float | None) -> None:
    if seconds is None:
        say(terminal(), f"✗ {step}: {visible(told)}", "red")
    else:
        say(terminal(), f"✓ {step}: {visible(told)} ({seconds:.1f} s)", "green")


async def _examined(settings: Settings) -> Exit:
    """What `overnight doctor` says of the edge. A worker's token may have fewer rights than the one used here."""
    typer.echo()
    checks = await edge_checks(settings)
    tell_checks(checks)
    typer.echo("\nNext: start `overnight worker` with these settings, then `overnight cloudflare smoke`.")
    return Exit.FAILED if any_bad(checks) else Exit.OK


async def _first_key(settings: Settings) -> str:
    """Shown by the command that makes keys, in its manner: once, on the standard output."""
    limits = KeyLimits(requests_per_minute=DEFAULT_REQUESTS_PER_MINUTE, max_queued=DEFAULT_MAX_QUEUED)
    order = keys.Order(
        name="first", owner=None, scopes=frozenset({Scope.ADMIN}), limits=limits, expires_in_days=None
    )
    typer.echo()
    await keys.create(settings, order, json=False)
    typer.echo()
    return f"made in {settings.data}, and shown above"


def _tell(step: str, mark: Mark, told: str) -> None:
    looks = {Mark.THERE: ("=", ""), Mark.DONE: ("✓", "green"), Mark.TO_DO: ("+", "yellow")}
    sign, style = looks[mark]
    say(terminal(), f"{sign} {step}: {visible(told)}", style)


def _how_it_stands(failed: StepFailed, *, dry: bool) -> str:
    said = f"the step `{failed.step}` failed. {visible(failed.reason)}"
    if dry:
        return f"{said}\nNothing was changed."
    return (
        f"{said}\nDone: {_names(failed.done)}. Not done: {_names((failed.step, *failed.left))}. What is done stays, "
        "and nothing of it need be undone: run the same command again, and it goes on from here."
    )


def _names(steps: Sequence[str]) -> str:
    return ", ".join(steps) or "nothing"
