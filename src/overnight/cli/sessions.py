"""`overnight sessions`: look at, take out, bring in and erase conversations with their files."""

from pathlib import Path

import typer

from overnight.cli.connect import connected
from overnight.cli.exits import Exit, Unable
from overnight.cli.show import as_json, session_page, session_table
from overnight.cli.text import size, visible
from overnight.domain.ids import InvalidId, parse_uuid
from overnight.settings import Settings


async def listing(settings: Settings, *, limit: int, json: bool) -> Exit:
    async with connected(settings) as link:
        sessions = [session async for session in link.client.sessions(limit=limit)]
    if json:
        typer.echo(as_json(sessions))
    else:
        typer.echo("\n".join(session_table(sessions)) if sessions else "no sessions")
    return Exit.OK


async def show(settings: Settings, session_id: str, *, json: bool) -> Exit:
    async with connected(settings) as link:
        session = await link.client.session(session_id)
    typer.echo(as_json(session) if json else "\n".join(session_page(session)))
    return Exit.OK


async def download(settings: Settings, session_id: str, output: Path | None) -> Exit:
    async with connected(settings) as link:
        session = await link.client.session(session_id)
        target = output or Path(f"{session.session_id}.zip")
        if output is None and target.exists():
            raise Unable(f"{target} exists. Nothing was changed. Name a file with -o.", Exit.FAILED)
        count = await link.client.download_archive(session.session_id, target)
    typer.echo(f"{visible(str(target))}  {size(count)}")
    return Exit.OK


async def upload(settings: Settings, file: Path, session_id: str) -> Exit:
    try:
        parse_uuid(session_id)
    except InvalidId as error:
        raise Unable(f"{error}; `uuidgen` makes one. Nothing was sent.", Exit.USAGE) from None
    async with connected(settings) as link:
        session = await link.client.upload_archive(file, session_id)
    typer.echo(f"session {session.session_id} starts from {visible(str(file))}")
    typer.echo(f'go on:  overnight run --session {session.session_id}{link.there} "..."')
    return Exit.OK


async def remove(settings: Settings, session_id: str) -> Exit:
    async with connected(settings) as link:
        gone = await link.client.delete_session(session_id)
    if gone:
        typer.echo(f"session {visible(session_id)} is erased with its jobs and archives")
    else:
        typer.echo(f"session {visible(session_id)} is gone; the service goes on deleting what is left of it")
    return Exit.OK
