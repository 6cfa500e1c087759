"""Puts the parts together: the only file that names concrete classes."""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import SecretStr

from overnight.adapters.directory import DirectoryArchives
from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.roster import FileRoster, worker_name
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.keys import SqliteKeys
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.sqlite.wakeups import open_wakeups
from overnight.adapters.system import FreeSpace, SystemClock, SystemEntropy
from overnight.adapters.webhooks import WebhookSender
from overnight.agent.run import ClaudeAgent, claude_agent
from overnight.api.app import close_streams, create_app
from overnight.api.parts import ApiParts, Limits, Readiness
from overnight.archive import Caps, Profile, remove_tree
from overnight.domain.redaction import Redactor
from overnight.domain.signature import new_secret, parse_secret
from overnight.flows.keyring import KeyRing
from overnight.flows.lease import Holder
from overnight.flows.notify import Notifier
from overnight.flows.run_job import Runner
from overnight.flows.sweep import Sweep
from overnight.flows.workspace import Workspaces
from overnight.ports import JobIndex, JobStore, Queue, Wakeups
from overnight.rehearsal import serve_rehearsal
from overnight.serving import listen, serving, url_of
from overnight.settings import Settings, SettingsError
from overnight.wiring_cloudflare import edge_parts
from overnight.worker.loop import every, work

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
OWN_NAMES = ("127.0.0.1", "[::1]", "localhost")
LONGEST_SWEEP_PAUSE = 1.0
"""A lapsed lease is seen by one sweep and taken back by the next: a lost job runs again two seconds later."""
EDGE_SWEEP_PAUSE = 30.0
"""A worker of an edge has only its own leftovers to clear; lost jobs are the ledger's alarm's."""


@dataclass(frozen=True, slots=True)
class Base:
    """What every process of overnight shares: the data directory's adapters."""

    settings: Settings
    redactor: Redactor
    worker: str
    scratch: Path
    database: Database | None
    store: JobStore
    index: JobIndex
    queue: Queue
    wakeups: Wakeups
    archives: DirectoryArchives
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
async def running_service(settings: Settings, *, recorded: bool = True) -> AsyncIterator[Running]:
    """The API and a worker, in this process. Leaving the block hands running jobs back first.

    `recorded` lets the command line find it by `service.json` in the data directory, while it lasts.
    Raises SettingsError, StorageError, IsolationUnavailable, and OSError if the port is taken.
    """
    async with contextlib.AsyncExitStack() as stack:
        base = await stack.enter_async_context(_base(settings))
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
async def running_worker(settings: Settings) -> AsyncIterator[Running]:
    """A worker alone, for the jobs of an edge, or else of a service on this machine (in its data directory)."""
    async with contextlib.AsyncExitStack() as stack:
        opened = _base(settings) if settings.edge_url is None else _edge_base(settings)
        base = await stack.enter_async_context(opened)
        agent, upstream = await _agent(stack, base)
        running = Running("", _banner(settings, agent, upstream))
        await stack.enter_async_context(_working(base, agent, running))
        yield running


@contextlib.asynccontextmanager
async def _base(settings: Settings) -> AsyncIterator[Base]:
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock, entropy = SystemClock(), SystemEntropy()
    async with (
        open_database(settings.data) as database,
        open_wakeups(database, MemoryWakeups(), entropy) as wakeups,
    ):
        with _enrolled(settings, entropy) as (worker, roster, scratch):
            yield Base(
                settings=settings,
                redactor=redactor_of(settings),
                worker=worker,
                scratch=scratch,
                database=database,
                store=SqliteStore(database, wakeups, clock),
                index=SqliteIndex(database),
                queue=SqliteQueue(database, wakeups, clock, entropy),
                wakeups=wakeups,
                archives=DirectoryArchives(settings.data / "archives"),
                roster=roster,
                clock=clock,
                entropy=entropy,
                keys=KeyRing(SqliteKeys(database), clock),
            )


@contextlib.asynccontextmanager
async def _edge_base(settings: Settings) -> AsyncIterator[Base]:
    """The same for a worker of an edge. Raises SettingsError."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock, entropy = SystemClock(), SystemEntropy()
    async with edge_parts(settings, MemoryWakeups(), clock) as edge:
        with _enrolled(settings, entropy) as (worker, roster, scratch):
            yield Base(
                settings=settings,
                redactor=redactor_of(settings),
                worker=worker,
                scratch=scratch,
                database=None,
                store=edge.store,
                index=edge.index,
                queue=edge.queue,
                wakeups=edge.wakeups,
                archives=DirectoryArchives(settings.data / "archives"),
                roster=roster,
                clock=clock,
                entropy=entropy,
                keys=KeyRing(edge.keys, clock),
            )


@contextlib.contextmanager
def _enrolled(settings: Settings, entropy: SystemEntropy) -> Iterator[tuple[str, FileRoster, Path]]:
    """This process's name, the roster that knows it, and its directory for files on their way."""
    host = socket.gethostname()
    worker = worker_name(host, os.getpid(), entropy.session_id()[:8])
    with contextlib.closing(FileRoster(settings.data, host)) as roster:
        roster.enroll(worker)
        with _scratch(settings.data / "scratch", worker, roster) as scratch:
            yield worker, roster, scratch


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
    agent = await stack.enter_async_context(claude_agent(settings, clock=base.clock, entropy=base.entropy))
    return agent, upstream


@contextlib.asynccontextmanager
async def _working(base: Base, agent: ClaudeAgent, running: Running) -> AsyncIterator[None]:
    """The worker's loop, the sweep and the notifier, while the block runs."""
    settings = base.settings
    workspaces = Workspaces(
        settings.data,
        base.archives,
        settings.archive_exclude,
        uploads=_uploads(settings),
        redactor=base.redactor,
        refuse_secrets=settings.archive_secrets == "refuse",
    )
    runner = _runner(base, agent, workspaces)
    sweep = _sweep(base, agent, workspaces)
    notifier = _notifier(base)
    async with asyncio.TaskGroup() as tasks:
        daemons = [tasks.create_task(notifier.run())]
        if base.database is not None:
            daemons.append(tasks.create_task(_stop_on_failure(base.database, running)))
        pause = min(settings.lease_seconds / 3, LONGEST_SWEEP_PAUSE)
        if base.database is None:
            pause = EDGE_SWEEP_PAUSE
        leaving = running.leaving
        tasks.create_task(every(pause, sweep.once, what="the sweep", leaving=leaving))
        loop = tasks.create_task(_work(base, agent, runner, leaving))
        try:
            yield
        finally:
            running.stop()
            await asyncio.wait({loop})
            for daemon in daemons:
                daemon.cancel()


async def _work(base: Base, agent: ClaudeAgent, runner: Runner, leaving: asyncio.Event) -> None:
    """Take jobs, unless the isolation is below what the operator wants: then none, and loudly."""
    if agent.refusal is None:
        await work(runner, base.queue, concurrency=base.settings.concurrency, leaving=leaving)
    else:
        log.critical("%s", agent.refusal)
        await leaving.wait()


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
        lease_seconds=settings.lease_seconds,
    )


def _sweep(base: Base, agent: ClaudeAgent, workspaces: Workspaces) -> Sweep:
    return Sweep(
        store=base.store,
        index=base.index,
        queue=base.queue,
        agent=agent,
        roster=base.roster,
        workspaces=workspaces,
        archives=base.archives,
        clock=base.clock,
        entropy=base.entropy,
        policy=base.settings.retry_policy,
    )


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


def redactor_of(settings: Settings) -> Redactor:
    """What blanks this process's secrets out of everything that it tells."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    loaded = {
        "api_key": settings.anthropic_api_key,
        "auth_token": settings.anthropic_auth_token,
        "ledger_token": settings.ledger_token,
        "cloudflare_api_token": settings.cloudflare_api_token,
    }
    secrets = {kind: secret.get_secret_value() for kind, secret in loaded.items() if secret is not None}
    return Redactor({**secrets, "webhook_secret": webhook_secret(settings)}, shapes=settings.redact_shapes)


def webhook_secret(settings: Settings) -> str:
    """The secret that webhooks are signed with: the setting, or one made once and kept beside the database."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    path = settings.data / "webhook-secret"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        secret = new_secret(os.urandom(32))
        file.write(f"{secret}\n")
    return secret


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


@dataclass(frozen=True, slots=True)
class OpenedKeys:
    store: SqliteKeys
    clock: SystemClock


@contextlib.asynccontextmanager
async def opened_keys(settings: Settings) -> AsyncIterator[OpenedKeys]:
    """The keys of the data directory, whether a service runs on it or not. Raises StorageError, OSError."""
    async with open_database(settings.data) as database:
        yield OpenedKeys(SqliteKeys(database), SystemClock())


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
