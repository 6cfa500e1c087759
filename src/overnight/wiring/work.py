"""What a worker does: its loop, and the repairs that run beside it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial

from overnight.adapters.sqlite.database import Database
from overnight.adapters.webhooks import WebhookSender
from overnight.agent.run import ClaudeAgent
from overnight.domain.signature import parse_secret
from overnight.flows.event_log import GATHER_SECONDS
from overnight.flows.finishing import Finisher
from overnight.flows.forgetting import Forgetting
from overnight.flows.keyring import CACHE_SECONDS
from overnight.flows.late_saving import LateSaving
from overnight.flows.lease import Holder
from overnight.flows.limits import BOOKS_SECONDS, LetIn, let_in
from overnight.flows.notify import Notifier
from overnight.flows.retention import Retention
from overnight.flows.run_job import Runner
from overnight.flows.sweep import Sweep, sights_of
from overnight.flows.workspace import Workspaces
from overnight.wiring.archives import chosen_archives
from overnight.wiring.base import Base
from overnight.wiring.running import Running
from overnight.wiring.secrets import webhook_secret
from overnight.wiring.upkeep import HOUSEKEEPING_PAUSE, housekeeping_of, retention_of, uploads_of
from overnight.worker.loop import every, work

log = logging.getLogger(__name__)

Chore = tuple[float, Callable[[], Awaitable[None]], str]
"""What is done again and again: the pause in seconds, the act, and what the log calls it."""

LONGEST_SWEEP_PAUSE = 1.0
EDGE_SWEEP_PAUSE = 30.0
"""A worker of an edge has only its own leftovers to clear; lost jobs are the ledger's alarm's."""
EDGE_BOOKS_PAUSE = 10.0
EDGE_GATHER_SECONDS = 1.0
"""There each look and each write is paid for (docs/decisions/0096)."""


@contextlib.asynccontextmanager
async def working(
    base: Base, agent: ClaudeAgent, running: Running, *, idle_seconds: float | None = None
) -> AsyncIterator[None]:
    """The worker's loop, the sweep and the notifier, while the block runs. After `idle_seconds` without a job it asks
    for the end."""
    workspaces, leaving = _workspaces(base), running.leaving
    runner = _runner(base, agent, workspaces)
    async with asyncio.TaskGroup() as tasks:
        daemons = [tasks.create_task(_notifier(base).run())]
        if base.database is not None:
            daemons.append(tasks.create_task(_stop_on_failure(base.database, running)))
        if base.refused is not None:
            daemons.append(tasks.create_task(_stop_on_refusal(base.refused, running)))
        for seconds, act, what in _chores(base, agent, workspaces):
            daemons.append(tasks.create_task(every(seconds, act, what=what, leaving=leaving)))
        late = LateSaving(store=base.store, workspaces=workspaces, clock=base.clock)
        saving = every(
            HOUSEKEEPING_PAUSE, late.once, what="the saving of what was set aside", leaving=leaving
        )
        saving_late = tasks.create_task(saving)
        if idle_seconds is None:  # It may last for hours, and what it has not stored stays on the disk;
            daemons.append(saving_late)  # but a worker that ends when it is idle may take its disk with it.
        loop = tasks.create_task(_work(base, agent, runner, running, idle_seconds))
        try:
            yield
        finally:
            running.stop()
            await asyncio.wait({loop})
            for daemon in daemons:
                daemon.cancel()


def _chores(base: Base, agent: ClaudeAgent, workspaces: Workspaces) -> Iterator[Chore]:
    sweep_pause, books_pause = min(base.settings.lease_seconds / 3, LONGEST_SWEEP_PAUSE), BOOKS_SECONDS
    if base.database is None:
        sweep_pause, books_pause = EDGE_SWEEP_PAUSE, EDGE_BOOKS_PAUSE
    yield sweep_pause, _sweep(base, agent, workspaces, sweep_pause).once, "the sweep"
    yield books_pause, base.budgets.refresh, "the reading of the books"
    yield CACHE_SECONDS, base.keys.refresh, "the reading of the keys"
    has_list = base.database is not None
    kept = housekeeping_of(
        base.settings, base.store, base.index, base.archives, _retention(base), walks=has_list
    )
    yield HOUSEKEEPING_PAUSE, kept.once, "the housekeeping"
    if base.history is not None and base.settings.job_retention_days:
        seconds = base.settings.job_retention_days * 86_400
        forgetting = Forgetting(history=base.history, clock=base.clock, seconds=seconds)
        yield HOUSEKEEPING_PAUSE, forgetting.once, "the forgetting of old jobs"


def _workspaces(base: Base) -> Workspaces:
    settings = base.settings
    return Workspaces(
        settings.data,
        base.archives,
        settings.archive_exclude,
        uploads=uploads_of(settings),
        redactor=base.redactor,
        refuse_secrets=settings.archive_secrets == "refuse",
        warm=settings.warm_workspaces,
        warm_bytes=settings.warm_max_bytes,
    )


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
        finisher=_finisher(base, workspaces),
        retention=_retention(base),
        lease_seconds=settings.lease_seconds,
        checkpoint_seconds=settings.checkpoint_seconds,
        gather_seconds=GATHER_SECONDS if base.database is not None else EDGE_GATHER_SECONDS,
        archives_are_shared=chosen_archives(settings) != "directory",
        let_in=_letting_in(base),
    )


def _finisher(base: Base, workspaces: Workspaces) -> Finisher:
    return Finisher(
        store=base.store,
        queue=base.queue,
        workspaces=workspaces,
        clock=base.clock,
        entropy=base.entropy,
        fail_too_large=base.settings.archive_too_large == "fail",
    )


def _letting_in(base: Base) -> LetIn:
    return partial(let_in, owners=base.owners, store=base.store, queue=base.queue, clock=base.clock)


def _sweep(base: Base, agent: ClaudeAgent, workspaces: Workspaces, pause_seconds: float) -> Sweep:
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
        sights=sights_of(base.settings.lease_seconds, pause_seconds=pause_seconds),
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


async def _stop_on_failure(database: Database, running: Running) -> None:
    """A disk that failed a sync may have lost what it says it has: stop, and let a restart read the truth."""
    await database.failed()
    log.critical("the database cannot be written any more: stopping")
    running.fail()


async def _stop_on_refusal(refused: Callable[[], Awaitable[str]], running: Running) -> None:
    """A worker that the edge does not know any more would only keep messages from those that it knows."""
    log.critical("%s The worker stops; its jobs go on elsewhere.", await refused())
    running.fail()
