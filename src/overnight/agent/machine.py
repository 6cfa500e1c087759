"""What this machine has for runs: Claude Code, and what tiers of isolation are made with."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import claude_agent_sdk

from overnight.agent.isolation import Machine
from overnight.agent.limits import RunLimits
from overnight.agent.network import Joiner
from overnight.agent.slots import MACHINE_WIDE, Slots
from overnight.settings import Settings


@contextlib.asynccontextmanager
async def machine_of(settings: Settings, cli: Path | None = None) -> AsyncIterator[Machine]:
    joiner = Joiner()
    try:
        yield Machine(
            data=settings.data,
            joiner=joiner,
            limits=RunLimits(
                memory=settings.sandbox_memory_bytes,
                processes=settings.sandbox_processes,
                open_files=settings.sandbox_open_files,
                file_size=settings.sandbox_file_bytes,
                temporary=settings.sandbox_tmp_bytes,
            ),
            readable=settings.sandbox_readable,
            slots=Slots(settings.uid_base, (settings.data / "slots", MACHINE_WIDE)),
            cli=cli,
        )
    finally:
        await joiner.close()


def find_cli() -> Path:
    """Claude Code as the SDK brings it, else as installed. Raises FileNotFoundError."""
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    found = str(bundled) if bundled.is_file() else shutil.which("claude")
    if found is None:
        raise FileNotFoundError(
            "Claude Code is not here: install claude-agent-sdk from a wheel, which brings it"
        )
    return Path(found).resolve()
