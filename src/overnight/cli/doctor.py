"""`overnight doctor`: try each part for real, and say what to do about those that fail."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import httpx
import typer

from overnight.archive.codec import ENGINE
from overnight.cli.checks import Check, Verdict, any_bad, judged, note, tell
from overnight.cli.connect import running
from overnight.cli.exits import Exit, Unable
from overnight.cli.show import as_json
from overnight.cli.text import NO_CLIENT, size
from overnight.client.connection import is_loopback
from overnight.settings import Settings, mistaken

PYTHON = (3, 11)
SQLITE = (3, 51, 3)
"""Older ones can damage a database whose log is reset while another process reads it (facts: queue)."""
ROOM_BYTES = 1024**3
"""Less free disk than this is worth a word: one archive may be half as large."""
FREE_PLAN_BYTES = 50 * 1024**2
"""What Supabase's free plan takes in one object: a workspace of any size is soon larger."""
COMMAND_SECONDS = 20.0
UNSAVED_LISTED = 3


async def doctor(settings: Settings, *, json: bool) -> Exit:
    """Fails if something is bad that overnight cannot do without."""
    checks = [await check(settings) for check in CHECKS]
    if settings.edge_url is not None:
        checks += await _of_the_edge(settings)
    if json:
        typer.echo(as_json(checks))
    else:
        tell(checks)
    return Exit.FAILED if any_bad(checks) else Exit.OK


async def _of_the_edge(settings: Settings) -> list[Check]:
    try:
        from overnight.cli.doctor_edge import edge_checks  # noqa: PLC0415 - the official client is an extra
    except ModuleNotFoundError as missing:
        if missing.name != "cloudflare":
            raise
        return [judged("Cloudflare", False, NO_CLIENT)]
    return await edge_checks(settings)


async def python(_: Settings) -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return judged("Python", sys.version_info[:2] >= PYTHON, found, "overnight needs Python 3.11 or newer.")


async def environment(_: Settings) -> Check:
    wrong = mistaken()
    if not wrong:
        return judged("Environment", True, "every OVERNIGHT_ variable is a setting")
    meant = [like for like in wrong.values() if like]
    remedy = f"Did you mean {', '.join(meant)}?" if meant else "docs/settings.md lists them all."
    return note("Environment", f"no settings, and ignored: {', '.join(wrong)}", remedy)


async def agent_sdk(_: Settings) -> Check:
    try:
        return judged("Claude Agent SDK", True, version("claude-agent-sdk"))
    except PackageNotFoundError:
        return judged("Claude Agent SDK", False, "not installed", "Run `make install`.")


async def claude_code(_: Settings) -> Check:
    remedy = "Run `make install`: the Claude Agent SDK brings Claude Code along."
    cli = await asyncio.to_thread(bundled_cli)
    if cli is None:
        return judged("Claude Code", False, "not found", remedy)
    said = await _output(str(cli), "--version")
    return judged("Claude Code", said is not None, said or "it does not start", remedy)


async def isolation(settings: Settings) -> Check:
    from overnight.agent.isolation import (  # noqa: PLC0415 - it brings the SDK in
        IsolationUnavailable,
        choose_tier,
    )
    from overnight.agent.machine import machine_of  # noqa: PLC0415 - the same

    try:
        await asyncio.to_thread(settings.data.mkdir, mode=0o700, parents=True, exist_ok=True)
        async with machine_of(settings) as machine:
            chosen = await choose_tier(settings.isolation, machine)
    except (IsolationUnavailable, OSError) as reason:
        return judged("Isolation", False, str(reason))
    if settings.allow_unsandboxed is None and (refusal := chosen.refusal(settings.min_isolation)):
        return judged("Isolation", False, refusal)
    verdict = Verdict.NOTE if chosen.tier.name == "none" else Verdict.GOOD
    return Check(name="Isolation", verdict=verdict, finding=chosen.report)


async def data_directory(settings: Settings) -> Check:
    remedy = "Name a directory that you may write to with OVERNIGHT_DATA or --data."
    try:
        free = await asyncio.to_thread(_written_and_free, settings.data)
    except OSError as error:
        return judged("Data directory", False, f"{settings.data}: {error.strerror}", remedy)
    verdict = Verdict.GOOD if free >= ROOM_BYTES else Verdict.NOTE
    finding = f"{settings.data}, {size(free)} free"
    return Check(name="Data directory", verdict=verdict, finding=finding, remedy="Make room on this disk.")


async def archives(settings: Settings) -> Check:
    from overnight.wiring.archives import try_archives  # noqa: PLC0415 - slow to import

    tried = await try_archives(settings)
    if tried.refused:
        remedy = None if tried.sql is None else f"In the SQL editor of the project:\n{tried.sql}"
        return judged("Archives", False, tried.finding, remedy)
    finding = tried.finding if tried.limit is None else f"{tried.finding}, up to {size(tried.limit)} each"
    if tried.limit is not None and tried.limit <= FREE_PLAN_BYTES:
        return Check(name="Archives", verdict=Verdict.NOTE, finding=finding, remedy=_SMALL)
    verdict = Verdict.NOTE if tried.public_key else Verdict.GOOD
    return Check(name="Archives", verdict=verdict, finding=finding, remedy=_PUBLIC_KEY)


async def unsaved(settings: Settings) -> Check:
    """Workspaces that are in no archive: a note, and not bad, because nothing is lost."""
    name, place = "Unsaved workspaces", settings.data / "unsaved"
    found = await asyncio.to_thread(lambda: sorted(path.name for path in place.glob("*.*.*")))
    if not found:
        return Check(name=name, verdict=Verdict.GOOD, finding="none")
    listed = ", ".join(found[:UNSAVED_LISTED]) + (", ..." if len(found) > UNSAVED_LISTED else "")
    finding = f"{len(found)} below {place}: {listed}"
    return Check(name=name, verdict=Verdict.NOTE, finding=finding, remedy=_UNSAVED)


async def sqlite(_: Settings) -> Check:
    found = ".".join(version("apsw").split(".")[:3])  # apsw has the number of the SQLite that it brings
    new = tuple(int(part) for part in found.split(".")) >= SQLITE
    return judged("SQLite", new, found, "Run `make install`: the package apsw brings a newer one.")


async def archive_engine(_: Settings) -> Check:
    fast = ENGINE.name.startswith("isal")
    remedy = (
        "Works, at a quarter of the speed: this machine has no wheel of isal, or `make install` was not run."
    )
    verdict = Verdict.GOOD if fast else Verdict.NOTE
    return Check(name="Archive engine", verdict=verdict, finding=ENGINE.name, remedy=remedy)


async def key(settings: Settings) -> Check:
    if settings.rehearsal:
        return Check(name="API key", verdict=Verdict.GOOD, finding="none needed for a rehearsal")
    given = settings.anthropic_api_key or settings.anthropic_auth_token
    return judged(
        "API key",
        given is not None,
        "present" if given else "missing",
        "Set ANTHROPIC_API_KEY. A rehearsal needs none: overnight serve --rehearsal; to check for one, set "
        "OVERNIGHT_REHEARSAL=1.",
    )


async def upstream(settings: Settings) -> Check:
    if settings.rehearsal:
        return Check(
            name="Upstream", verdict=Verdict.NOTE, finding="the built-in rehearsal: no model is called"
        )
    url = settings.anthropic_base_url
    remedy = "Check the network, and ANTHROPIC_BASE_URL if you have set it."
    try:
        host = httpx.URL(url).host
        async with httpx.AsyncClient(timeout=10.0, trust_env=not is_loopback(host)) as http:
            answer = await http.head(url)
    except (httpx.HTTPError, httpx.InvalidURL):
        return judged("Upstream", False, f"{url} cannot be reached", remedy)
    return judged("Upstream", True, f"{url} answers ({answer.status_code})")


async def service(settings: Settings) -> Check:
    try:
        found = await running(settings)
    except Unable as reason:
        return judged("Service", False, str(reason))
    if found is None:
        said = "none is running; commands start one for the call"
        return Check(name="Service", verdict=Verdict.NOTE, finding=said, remedy="Start one: overnight serve")
    return judged("Service", True, f"running at {found.url}")


CHECKS: tuple[Callable[[Settings], Awaitable[Check]], ...] = (
    python,
    environment,
    agent_sdk,
    claude_code,
    isolation,
    data_directory,
    archives,
    unsaved,
    sqlite,
    archive_engine,
    key,
    upstream,
    service,
)


_SMALL = (
    "A larger session is not stored: OVERNIGHT_ARCHIVE_TOO_LARGE says what becomes of its job. Raise the limit in the "
    "project's storage settings, or exclude more with OVERNIGHT_ARCHIVE_EXCLUDE."
)
_UNSAVED = (
    "Their archives could not be stored. A worker stores them as soon as it can, or the session's next job here goes "
    "on in them. One that stays was overtaken by a later job: take what you need (`files/`), then delete the directory."
)
_PUBLIC_KEY = (
    "The key is the project's public one: whoever has it can read, replace and delete every session. Set "
    "SUPABASE_SECRET_KEY instead."
)


def bundled_cli() -> Path | None:
    """Claude Code as the SDK brings it, or the one on PATH. Looks without importing the SDK."""
    spec = find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bundled" / "claude"
        if bundled.is_file():
            return bundled
    found = shutil.which("claude")
    return Path(found) if found else None


def _written_and_free(data: Path) -> int:
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=data) as file:
        file.write(b"doctor")
        file.flush()
    return shutil.disk_usage(data).free


async def _output(*command: str) -> str | None:
    """The first line that a command prints; None if it fails or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath, "HOME": str(Path.home())},
        )
    except OSError:
        return None
    try:
        out, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return out.decode(errors="replace").strip() if process.returncode == 0 else None
