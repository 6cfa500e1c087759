"""A service or a worker, put together from its parts."""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from pydantic import SecretStr

from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.roster import FileRoster, worker_name
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.keys import SqliteKeys
from overnight.adapters.sqlite.owners import SqliteOwners
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.sqlite.wakeups import DatagramWakeups, open_wakeups
from overnight.adapters.system import FreeSpace, SystemClock, SystemEntropy
from overnight.adapters.webhooks import WebhookSender
from overnight.agent.grants import Allowance
from overnight.agent.run import Allow, ClaudeAgent, claude_agent
from overnight.api.app import close_streams, create_app
from overnight.api.parts import ApiParts, Limits, Readiness
from overnight.archive import Caps, Profile, remove_tree
from overnight.domain.redaction import Redactor
from overnight.domain.signature import parse_secret
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import CACHE_SECONDS, KeyRing
from overnight.flows.lease import Holder
from overnight.flows.limits import BOOKS_SECONDS, Budgets, let_in
from overnight.flows.notify import Notifier
from overnight.flows.retention import Retention
from overnight.flows.run_job import Runner
from overnight.flows.sweep import Sweep
from overnight.flows.workspace import Workspaces
from overnight.ports import ArchiveStore, RunOrder
from overnight.rehearsal import serve_rehearsal
from overnight.serving import listen, serving, url_of
from overnight.settings import Settings, SettingsError
from overnight.wiring.archives import chosen_archives, opened_archives
from overnight.wiring.secrets import redactor_of, webhook_secret
from overnight.wiring.upkeep import HOUSEKEEPING_PAUSE, housekeeping_of, retention_of
from overnight.worker.loop import every, work

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
OWN_NAMES = ("127.0.0.1", "[::1]", "localhost")
LONGEST_SWEEP_PAUSE = 1.0
"""A lapsed lease is seen by one sweep and taken back by the next: a lost job runs again two seconds later."""


@dataclass(frozen=True, slots=True)
class Base:
    """What every process of overnight shares: the data directory's adapters."""

    settings: Settings
    redactor: Redactor
    worker: str
    scratch: Path
    database: Database
    store: SqliteStore
    index: SqliteIndex
    owners: SqliteOwners
    budgets: Budgets
    queue: SqliteQueue
    wakeups: DatagramWakeups
    archives: ArchiveStore
    roster: FileRoster
    clock: SystemClock
    entropy: SystemEntropy
    keys: KeyRing


class Running:
    """A service or a worker that is up. `stop()` asks for a clean end: leaving its block does the rest."""

    def __init__(self, url: str, banner: Sequence[str]) -> None:
        self.url = url
        self.banner = banner
        self.leaving = asyncio.Event()
        self.failed = False

    def stop(self) -> None:
        self.leaving.set()

    def fail(self) -> None:
        """Stop, and say so by the exit status."""
        self.failed = True
        self.leaving.set()

    async def until_stopped(self) -> None:
        await self.leaving.wait()


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
        base = await stack.enter_async_context(_base(settings, redactor))
        await _refuse_public(settings, base.keys)
        listener = listen(settings.host, settings.port)
        stack.callback(listener.close)
        url = url_of(listener)
        agent, upstream = await _agent(stack, base)
        running = Running(url, _banner(settings, agent, upstream))
        app = create_app(_api_parts(base, agent, running, url))
        await stack.enter_async_context(serving(app, listener, grace_seconds=2.0))
        stack.callback(close_streams, app)
        await stack.enter_async_context(_working(base, agent, running))
        if recorded:
            stack.enter_context(_recorded(settings.data / "service.json", url))
        yield running


@contextlib.asynccontextmanager
async def running_worker(settings: Settings, *, redactor: Redactor | None = None) -> AsyncIterator[Running]:
    """A worker alone, for the jobs in the data directory of a service on this machine."""
    async with contextlib.AsyncExitStack() as stack:
        base = await stack.enter_async_context(_base(settings, redactor))
        agent, upstream = await _agent(stack, base)
        running = Running("", _banner(settings, agent, upstream))
        idle_seconds = settings.idle_exit_seconds
        await stack.enter_async_context(_working(base, agent, running, idle_seconds=idle_seconds))
        yield running


@contextlib.asynccontextmanager
async def _base(settings: Settings, redactor: Redactor | None) -> AsyncIterator[Base]:
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock, entropy, host = SystemClock(), SystemEntropy(), socket.gethostname()
    redactor = redactor or redactor_of(settings)
    worker = worker_name(host, os.getpid(), entropy.session_id()[:8])
    async with (
        open_database(settings.data) as database,
        open_wakeups(database, MemoryWakeups(), entropy) as wakeups,
        opened_archives(settings) as archives,
    ):
        with contextlib.closing(FileRoster(settings.data, host)) as roster:
            roster.enroll(worker)
            owners = SqliteOwners(database)
            keys = KeyRing(SqliteKeys(database), clock, learn=partial(redactor.learn, "webhook_secret"))
            await keys.refresh()
            with _scratch(settings.data / "scratch", worker, roster) as scratch:
                yield Base(
                    settings=settings,
                    redactor=redactor,
                    worker=worker,
                    scratch=scratch,
                    database=database,
                    store=SqliteStore(database, wakeups, clock),
                    index=SqliteIndex(database),
                    owners=owners,
                    budgets=Budgets(owners, clock),
                    queue=SqliteQueue(database, wakeups, clock, entropy),
                    wakeups=wakeups,
                    archives=archives,
                    roster=roster,
                    clock=clock,
                    entropy=entropy,
                    keys=keys,
                )


@contextlib.contextmanager
def _scratch(directory: Path, worker: str, roster: FileRoster) -> Iterator[Path]:
    """A directory for uploads and downloads on their way; those of dead processes are deleted."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for other in directory.iterdir():
        if roster.is_dead(other.name):
            remove_tree(other)
    own = directory / worker
    own.mkdir(mode=0o700)
    try:
        yield own
    finally:
        remove_tree(own)


async def _agent(stack: contextlib.AsyncExitStack, base: Base) -> tuple[ClaudeAgent, str]:
    """The agent, and in words where its API calls go: to the rehearsal API, if that is asked for."""
    settings, upstream = base.settings, base.settings.anthropic_base_url
    if settings.rehearsal:
        url = await stack.enter_async_context(serve_rehearsal())
        settings = settings.model_copy(
            update={"anthropic_base_url": url, "anthropic_api_key": SecretStr("rehearsal")}
        )
        upstream = f"{url} (rehearsal: no key, no cost, no model)"
    opened = claude_agent(settings, clock=base.clock, entropy=base.entropy, allow=_allowing(base.budgets))
    return await stack.enter_async_context(opened), upstream


def _allowing(budgets: Budgets) -> Allow:
    """What a run may use at the gateway is what its job's key allows."""

    @contextlib.asynccontextmanager
    async def allow(order: RunOrder) -> AsyncIterator[Allowance]:
        async with budgets.opened(order) as left:
            models = frozenset(order.models) if order.models else None
            yield Allowance(models=models, daily_usd=order.daily_budget_usd, budget_left=left)

    return allow


@contextlib.asynccontextmanager
async def _working(
    base: Base, agent: ClaudeAgent, running: Running, *, idle_seconds: float | None = None
) -> AsyncIterator[None]:
    """The worker's loop, the sweep and the notifier, while the block runs. After `idle_seconds` without a job it asks
    for the end."""
    settings = base.settings
    workspaces = Workspaces(
        settings.data,
        base.archives,
        settings.archive_exclude,
        uploads=_uploads(settings),
        redactor=base.redactor,
        refuse_secrets=settings.archive_secrets == "refuse",
        warm=settings.warm_workspaces,
        warm_bytes=settings.warm_max_bytes,
    )
    runner = _runner(base, agent, workspaces)
    sweep = _sweep(base, agent, workspaces)
    notifier = _notifier(base)
    async with asyncio.TaskGroup() as tasks:
        daemons = [
            tasks.create_task(notifier.run()),
            tasks.create_task(_stop_on_failure(base.database, running)),
        ]
        pause = min(settings.lease_seconds / 3, LONGEST_SWEEP_PAUSE)
        leaving = running.leaving
        tasks.create_task(every(pause, sweep.once, what="the sweep", leaving=leaving))
        for seconds, read, what in (
            (BOOKS_SECONDS, base.budgets.refresh, "the reading of the books"),
            (CACHE_SECONDS, base.keys.refresh, "the reading of the keys"),
        ):
            tasks.create_task(every(seconds, read, what=what, leaving=leaving))
        kept = housekeeping_of(settings, base.store, base.index, base.archives, _retention(base))
        tasks.create_task(every(HOUSEKEEPING_PAUSE, kept.once, what="the housekeeping", leaving=leaving))
        loop = tasks.create_task(_work(base, agent, runner, running, idle_seconds))
        try:
            yield
        finally:
            running.stop()
            await asyncio.wait({loop})
            for daemon in daemons:
                daemon.cancel()


async def _work(
    base: Base, agent: ClaudeAgent, runner: Runner, running: Running, idle_seconds: float | None
) -> None:
    """Take jobs, unless the isolation is below what the operator wants: then none, and loudly."""
    leaving = running.leaving
    if agent.refusal is None:
        concurrency = base.settings.concurrency
        await work(runner, base.queue, concurrency=concurrency, leaving=leaving, idle_seconds=idle_seconds)
        running.stop()
        return
    log.critical("%s", agent.refusal)
    try:
        async with asyncio.timeout(idle_seconds):
            await leaving.wait()
    except TimeoutError:
        running.fail()


def _runner(base: Base, agent: ClaudeAgent, workspaces: Workspaces) -> Runner:
    settings = base.settings
    return Runner(
        worker=base.worker,
        store=base.store,
        queue=base.queue,
        agent=agent,
        workspaces=workspaces,
        holder=Holder(base.store, base.wakeups, base.clock, settings.lease_seconds),
        clock=base.clock,
        entropy=base.entropy,
        policy=settings.retry_policy,
        redactor=base.redactor,
        retention=_retention(base),
        lease_seconds=settings.lease_seconds,
        fail_too_large=settings.archive_too_large == "fail",
        checkpoint_seconds=settings.checkpoint_seconds,
        archives_are_shared=chosen_archives(settings) != "directory",
        let_in=_letting_in(base),
    )


def _letting_in(base: Base) -> Callable[[str], Awaitable[None]]:
    return partial(let_in, owners=base.owners, store=base.store, queue=base.queue, clock=base.clock)


def _sweep(base: Base, agent: ClaudeAgent, workspaces: Workspaces) -> Sweep:
    return Sweep(
        store=base.store,
        index=base.index,
        queue=base.queue,
        agent=agent,
        roster=base.roster,
        workspaces=workspaces,
        clock=base.clock,
        entropy=base.entropy,
        policy=base.settings.retry_policy,
        let_in=_letting_in(base),
    )


def _retention(base: Base) -> Retention:
    return retention_of(base.settings, base.store, base.archives, base.clock)


def _notifier(base: Base) -> Notifier:
    own = (parse_secret(webhook_secret(base.settings)),)

    async def secrets(key_id: str | None) -> Sequence[bytes]:
        return own if key_id is None else await base.keys.webhook_secrets(key_id)

    return Notifier(
        store=base.store,
        index=base.index,
        webhooks=WebhookSender(policy=base.settings.callback_policy, clock=base.clock),
        wakeups=base.wakeups,
        clock=base.clock,
        entropy=base.entropy,
        secrets=secrets,
    )


def _api_parts(base: Base, agent: ClaudeAgent, running: Running, url: str) -> ApiParts:
    settings = base.settings

    def ready() -> Readiness:
        draining = running.leaving.is_set()
        return Readiness(
            ok=not draining and agent.refusal is None,
            draining=draining,
            isolation=agent.isolation,
            isolation_properties=agent.isolation_properties,
            reasons=(agent.refusal or agent.chosen.report,),
        )

    return ApiParts(
        store=base.store,
        index=base.index,
        queue=base.queue,
        archives=base.archives,
        wakeups=base.wakeups,
        keys=base.keys,
        kept=KeptHere(settings.data),
        clock=base.clock,
        entropy=base.entropy,
        callback_policy=settings.callback_policy,
        limits=Limits(
            max_body_bytes=settings.max_body_bytes,
            max_archive_bytes=settings.max_archive_bytes,
            max_timeout_seconds=settings.max_timeout_seconds,
            max_queued=settings.max_queued,
            min_free_bytes=settings.min_free_disk_bytes,
            uploads=_uploads(settings),
        ),
        scratch=base.scratch,
        allowed_hosts=_allowed_hosts(settings),
        ready=ready,
        free_bytes=FreeSpace(settings.data),
        version=version("overnight"),
        redactor=base.redactor,
    )


async def _stop_on_failure(database: Database, running: Running) -> None:
    """A disk that failed a sync may have lost what it says it has: stop, and let a restart read the truth."""
    await database.failed()
    log.critical("the database cannot be written any more: stopping")
    running.fail()


def _uploads(settings: Settings) -> Profile:
    caps = Caps(
        archive_bytes=settings.max_archive_bytes,
        entries=settings.upload_max_entries,
        file_bytes=settings.upload_max_file_bytes,
        content_bytes=settings.upload_max_content_bytes,
    )
    return Profile(stranger=True, caps=caps)


@contextlib.contextmanager
def _recorded(path: Path, url: str) -> Iterator[None]:
    """Where the command line finds the service of this data directory."""
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _refuse_public(settings: Settings, keys: KeyRing) -> None:
    if settings.host in LOOPBACK or settings.allow_public or await keys.any():
        return
    raise SettingsError(
        "OVERNIGHT_HOST: the address is not loopback, and there is no API key yet: whoever can reach the service "
        "could run anything on this machine. Nothing was started. Make a key with `overnight keys create` (for "
        "the same data directory), or set OVERNIGHT_ALLOW_PUBLIC=1 if the network is yours alone."
    )


def _allowed_hosts(settings: Settings) -> Sequence[str]:
    """Any, for a public address that no names are set for: there, the key and not the name keeps others out."""
    if settings.allowed_hosts:
        return (*OWN_NAMES, *settings.allowed_hosts)
    return OWN_NAMES if settings.host in LOOPBACK else ("*",)


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
    if settings.rehearsal or settings.anthropic_api_key or settings.anthropic_auth_token:
        return ""
    return " - NO KEY: set ANTHROPIC_API_KEY, or jobs fail at their first call (or try --rehearsal)"
