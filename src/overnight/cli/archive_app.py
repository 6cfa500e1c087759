"""`overnight archive` and its options. What the commands do is in `overnight.cli.archive`."""

# ruff: noqa: PLC0415 - a command imports what it does when it is called, so that the others start quickly

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from overnight.cli.exits import finish

archive_app = typer.Typer(help="The archive engine, on its own: no service is needed.", no_args_is_help=True)

Zip = Annotated[Path, typer.Argument(metavar="FILE", help="The zip.", show_default=False)]
Tree = Annotated[Path, typer.Argument(metavar="DIR", help="The directory.", show_default=False)]


@archive_app.command("pack")
def pack(
    directory: Tree,
    file: Zip,
    base: Annotated[
        Path | None,
        typer.Option(help="An older archive of it, with its record: copy from there what did not change."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="A name to leave out; may be given again [default: .git, node_modules, .cache, dist]."
        ),
    ] = None,
    by_content: Annotated[
        bool, typer.Option("--hash", help="Trust no inode and no ctime: compare every byte with the base.")
    ] = False,
) -> None:
    """Pack a directory into a zip, and note beside it (FILE.record) what it was."""
    from overnight.cli import archive

    order = archive.Order(base=base, exclude=exclude, by_content=by_content)
    finish(asyncio.to_thread(archive.pack_directory, directory, file, order))


@archive_app.command("unpack")
def unpack(
    file: Zip,
    directory: Tree,
    untrusted: Annotated[
        bool,
        typer.Option("--untrusted", help="Judge it as an uploaded archive: strict, and with plain modes."),
    ] = False,
) -> None:
    """Judge a zip, and restore it into a new or empty directory."""
    from overnight.cli import archive

    finish(asyncio.to_thread(archive.unpack_into, file, directory, untrusted=untrusted))


@archive_app.command("list")
def listing(
    file: Zip,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show what is in a zip."""
    from overnight.cli import archive

    finish(asyncio.to_thread(archive.show, file, json=json))
