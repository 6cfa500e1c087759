"""Why a service or a worker could not start, in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from overnight.cli.exits import Exit, Unable
from overnight.settings import Settings, SettingsError


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Turns what `overnight.wiring` raises at start-up into Unable."""
    from overnight.agent.isolation import IsolationUnavailable  # noqa: PLC0415 - slow to import
    from overnight.ports import StorageError  # noqa: PLC0415 - not needed by the other commands

    try:
        yield
    except SettingsError as error:
        raise Unable(str(error), Exit.USAGE) from error
    except IsolationUnavailable as error:
        raise Unable(f"{error} Nothing was started.", Exit.FAILED) from error
    except StorageError as error:
        raise Unable(f"{error} The data is in {settings.data}; nothing was changed.", Exit.FAILED) from error
    except OSError as error:
        raise Unable(_of_the_system(error, settings), Exit.FAILED) from error


def _of_the_system(error: OSError, settings: Settings) -> str:
    if error.errno is None:  # one of ours: its words say it all
        return str(error)
    where = f"{error.filename}" if error.filename else f"{settings.host} port {settings.port}"
    remedy = (
        "Check that you may write there, or name another directory with --data."
        if error.filename
        else "If the port is taken, a service may run there already: `overnight doctor` tells. Or name another port "
        "with --port (0 takes a free one)."
    )
    return f"could not start: {where}: {os.strerror(error.errno)}. Nothing was changed. {remedy}"
