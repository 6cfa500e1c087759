"""`overnight doctor --attack`: what an agent could do on this machine, in each tier of isolation."""

import asyncio
from collections.abc import Mapping

import typer
from msgspec import Struct

from overnight.cli.exits import Exit
from overnight.cli.show import as_json, say, terminal
from overnight.cli.text import visible
from overnight.settings import Settings


class Attacked(Struct, frozen=True, kw_only=True):
    """`properties`: what withstood. `complaint`: why the tier could not be attacked, None if it was."""

    tier: str
    holds: bool
    properties: Mapping[str, bool]
    complaint: str | None


async def attack(settings: Settings, *, json: bool) -> Exit:
    """Fails if no tier at or above the minimum holds."""
    from overnight.agent.isolation import LADDER, attack_every_tier  # noqa: PLC0415 - it brings the SDK in
    from overnight.agent.machine import machine_of  # noqa: PLC0415 - the same

    await asyncio.to_thread(settings.data.mkdir, mode=0o700, parents=True, exist_ok=True)
    async with machine_of(settings) as machine:
        found = await attack_every_tier(machine)
    attacked = [
        Attacked(tier=tier, holds=not f.failures(tier), properties=f.properties, complaint=f.complaint)
        for tier, f in found.items()
    ]
    if json:
        typer.echo(as_json(attacked))
    else:
        _tell(attacked)
    enough = LADDER[LADDER.index(settings.min_isolation) :]
    return Exit.OK if any(one.holds and one.tier in enough for one in attacked) else Exit.FAILED


def _tell(attacked: list[Attacked]) -> None:
    console = terminal()
    say(console, "".join(["what is kept from an agent".ljust(28), *(one.tier.ljust(12) for one in attacked)]))
    for name in attacked[0].properties:
        cells = ("-" if one.complaint else "held" if one.properties[name] else "BROKEN" for one in attacked)
        say(
            console, "".join([name.replace("_", " ").ljust(28), *(cell.ljust(12) for cell in cells)]).rstrip()
        )
    for one in attacked:
        if one.complaint is not None:
            say(console, f"{one.tier} could not be attacked: {visible(one.complaint)}", "yellow")
