"""A service or a worker, put together from its parts."""

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path

from overnight.agent.run import ClaudeAgent
from overnight.api.app import close_streams, create_app
from overnight.domain.redaction import Redactor
from overnight.serving import listen, serving, url_of
from overnight.settings import Settings
from overnight.wiring.access import refuse_public
from overnight.wiring.agent import opened_agent
from overnight.wiring.api import api_parts
from overnight.wiring.base import opened_base, opened_edge_base
from overnight.wiring.running import Running
from overnight.wiring.work import working


@contextlib.asynccontextmanager
async def running_service(
    settings: Settings, *, recorded: bool = True, redactor: Redactor | None = None
) -> AsyncIterator[Running]:
    """The API and a worker, in this process. Leaving the block hands running jobs back first.

    `recorded` lets the command line find it by `service.json` in the data directory, while it lasts. `redactor` is the
    one that the log has too: it learns the secrets of keys.
    Raises SettingsError, StorageError, IsolationUnavailable, and OSError if the port is taken.
    """
    async with contextlib.AsyncExitStack() as stack:
        base = await stack.enter_async_context(opened_base(settings, redactor))
        await refuse_public(settings, base.keys)
        listener = listen(settings.host, settings.port)
        stack.callback(listener.close)
        url = url_of(listener)
        agent, upstream = await stack.enter_async_context(opened_agent(base))
        running = Running(url, _banner(settings, agent, upstream))
        app = create_app(api_parts(base, agent, running))
        await stack.enter_async_context(serving(app, listener, grace_seconds=2.0))
        stack.callback(close_streams, app)
        if recorded:  # also while jobs are handed back at the end
            stack.enter_context(_recorded(settings.data / "service.json", url))
        await stack.enter_async_context(working(base, agent, running))
        yield running


@contextlib.asynccontextmanager
async def running_worker(settings: Settings, *, redactor: Redactor | None = None) -> AsyncIterator[Running]:
    """A worker alone, for the jobs of an edge, or else of a service on this machine (in its data directory)."""
    async with contextlib.AsyncExitStack() as stack:
        opened = opened_base if settings.edge_url is None else opened_edge_base
        base = await stack.enter_async_context(opened(settings, redactor))
        agent, upstream = await stack.enter_async_context(opened_agent(base))
        running = Running("", _banner(settings, agent, upstream))
        idle_seconds = settings.idle_exit_seconds
        await stack.enter_async_context(working(base, agent, running, idle_seconds=idle_seconds))
        yield running


@contextlib.contextmanager
def _recorded(path: Path, url: str) -> Iterator[None]:
    """Where the command line finds the service of this data directory, the last one that began here."""
    fresh = path.with_suffix(f".{os.getpid()}")
    record = json.dumps({"url": url, "pid": os.getpid()})
    fresh.write_text(record)
    fresh.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == record:
                path.unlink()


def _banner(settings: Settings, agent: ClaudeAgent, upstream: str) -> tuple[str, ...]:
    return (
        f"overnight {version('overnight')}",
        f"  data       {settings.data}",
        f"  upstream   {upstream}{_key_warning(settings)}",
        f"  isolation  {agent.refusal or agent.chosen.report}",
        f"  egress     {settings.egress}",
        f"  runs       {settings.concurrency} at once",
    )


def _key_warning(settings: Settings) -> str:
    if not settings.lacks_key:
        return ""
    return " - NO KEY: set ANTHROPIC_API_KEY, or jobs fail at their first call (or try --rehearsal)"
