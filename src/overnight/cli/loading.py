"""Settings for a command, or the end of it with the reason."""

from typing import TYPE_CHECKING, Any

import typer

from overnight.cli.exits import Exit, refuse

if TYPE_CHECKING:
    from overnight.settings import Settings


def load_settings(**overrides: Any) -> "Settings":
    from overnight.settings import SettingsError, load  # noqa: PLC0415 - `--help` needs none of it

    try:
        return load(**overrides)
    except SettingsError as error:
        raise typer.Exit(refuse(str(error), Exit.USAGE)) from None
