"""How a command ends: its exit status, and what is said when it could not do its work."""

import asyncio
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, NoReturn

import typer

from overnight.cli.text import visible


class Exit(IntEnum):
    """`docs/cli.md` explains them; scripts rely on the numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    UNAVAILABLE = 4
    INTERRUPTED = 130


BY_STATUS = {"completed": Exit.OK, "failed": Exit.FAILED, "cancelled": Exit.CANCELLED}


class Unable(Exception):
    """The command cannot do its work, and the message says why and what helps: no traceback needed."""

    def __init__(self, message: str, code: Exit = Exit.UNAVAILABLE) -> None:
        super().__init__(message)
        self.code = code


def finish(work: Coroutine[Any, Any, Exit]) -> NoReturn:
    """Run the command to its end and leave with its exit status."""
    from overnight.client import (  # noqa: PLC0415 - `version` and `--help` need no HTTP client
        ApiProblem,
        DamagedDownload,
        ServiceUnreachable,
    )

    try:
        code = asyncio.run(work)
    except Unable as reason:
        code = refuse(str(reason), reason.code)
    except ApiProblem as problem:
        faults = "".join(f"\n  {fault.pointer}: {fault.detail}" for fault in problem.faults)
        code = refuse(visible(f"{problem.detail} ({problem.code}){faults}"))
    except ServiceUnreachable as reason:
        code = refuse(visible(f"{reason}. Is `overnight serve` running there?"))
    except DamagedDownload as reason:
        code = refuse(str(reason), Exit.FAILED)
    except OSError as error:
        code = refuse(f"{error.strerror or error}: {error.filename or 'no file named'}", Exit.FAILED)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    raise typer.Exit(code)


def refuse(message: str, code: Exit = Exit.UNAVAILABLE) -> Exit:
    typer.echo(f"overnight: {message}", err=True)
    return code
