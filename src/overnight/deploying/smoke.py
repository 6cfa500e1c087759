"""`overnight cloudflare smoke`: one job from the edge to a worker and back, and a second one that is cancelled.

It sends real jobs to a real edge. Whatever it has made there it erases at the end, also after a failure.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.mirroring import SHOWN_SECONDS, status_key
from overnight.adapters.cloudflare.over_http import edge_documents
from overnight.adapters.cloudflare.turns import Turns
from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.client import AsyncClient, Job, OvernightError
from overnight.deploying.account import AccountProblem
from overnight.deploying.names import NAMESPACE
from overnight.deploying.opening import opened_account_of
from overnight.deploying.seen import NoEdge, look_at_edge, look_at_ledger
from overnight.domain.errors import Refused
from overnight.domain.job import DeliveryStatus
from overnight.domain.keys import LOCAL
from overnight.flows.kept_here import KeptHere
from overnight.flows.sessions import erase
from overnight.ports import ArchiveStore, Clock, StorageError
from overnight.settings import Settings, SettingsError
from overnight.wiring import redactor_of, running_worker
from overnight.wiring.archives import chosen_archives, opened_archives, try_archives

T = TypeVar("T")

WORD = "overnight"
PROMPT = f"Reply with the single word {WORD}.\nrehearsal: answer {WORD}"
LONG_PROMPT = "Run the command `sleep 300` in the shell, then say done.\nrehearsal: bash exec sleep 300"
MAX_BUDGET_USD = 1.0
LOOK_SECONDS = 0.5
SOON_SECONDS = 60.0
"""For what no worker is needed, or what one that runs already does within seconds."""
START_A_WORKER = (
    "Start `overnight worker` with the settings of this edge (worker.env), or let this command be one: --own-worker. "
    "If one runs: look into its log, and at `overnight doctor` on its machine."
)


class Wrong(Exception):
    """Something is not as it should be: the message says what, `remedy` what helps."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class SmokeFailed(Exception):
    """The first step that failed, and what helps."""

    def __init__(self, step: str, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason
        self.remedy = remedy


TROUBLES = (Wrong, NoEdge, OvernightError, StorageError, Refused, SettingsError, AccountProblem, OSError)


@dataclass
class Made:
    """What is to be erased at the end: sessions, each with its one job; and the first job once it has ended."""

    sessions: dict[str, str] = field(default_factory=dict)
    open_jobs: list[str] = field(default_factory=list)
    job_id: str = ""
    job: Job | None = None


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """`patience` is how long a worker may take for a job, in seconds. `token` makes the idempotency key."""

    settings: Settings
    client: AsyncClient
    ledger: LedgerStore
    archives: ArchiveStore
    clock: Clock
    token: str
    patience: float
    callback_url: str | None = None
    made: Made = field(default_factory=Made)

    def steps(self) -> Sequence[tuple[str, Callable[[], Awaitable[str]]]]:
        steps = [
            ("edge", self._edge),
            ("ledger", self._ledger),
            ("archive store", self._archive_store),
            ("execute", self._execute),
            ("idempotency key", self._execute_again),
            ("worker", self._taken),
            ("result", self._result),
            ("ledger and status", self._same),
            ("mirror", self._mirror),
            ("events", self._events),
            ("cancel", self._cancel),
        ]
        return steps if self.callback_url is None else [*steps, ("webhook", self._webhook)]

    async def _edge(self) -> str:
        seen = await look_at_edge(self.client.url, self.clock)
        return f"{self.client.url} answers, version {seen.version}"

    async def _ledger(self) -> str:
        token = self.settings.ledger_token
        await look_at_ledger(self.client.url, token.get_secret_value() if token else "")
        return "opens with the worker's token, and speaks the same protocol"

    async def _archive_store(self) -> str:
        tried = await try_archives(self.settings)
        if tried.refused:
            raise Wrong(tried.finding, "`overnight doctor` says more of the store.")
        return tried.finding

    async def _execute(self) -> str:
        job_id, session_id = await self._submit(PROMPT, self.token, self.callback_url)
        self.made.job_id = job_id
        return f"job {job_id}, session {session_id}"

    async def _execute_again(self) -> str:
        again = await self.client.submit(
            PROMPT, idempotency_key=self.token, **self._options(self.callback_url)
        )
        if again.job_id != self.made.job_id:
            self._note(again.job_id, again.session_id)
            raise Wrong(
                "the same request with the same key made a second job", "This is a fault of the edge."
            )
        return "the same request is the same job"

    async def _taken(self) -> str:
        job = await self._when(self.made.job_id, lambda job: job.status != "queued", self.patience)
        if job is None:
            raise Wrong(f"no worker took the job in {self.patience:.0f} s", START_A_WORKER)
        events = [event async for event in self.client.events(self.made.job_id, follow=False)]
        workers = [str(event.data.get("worker")) for event in events if event.type == "job.started"]
        return f"{workers[-1]} took it" if workers else f"the job is {job.status}"

    async def _result(self) -> str:
        job = await self._when(self.made.job_id, lambda job: job.final, self.patience)
        if job is None:
            raise Wrong(f"the job has not ended in {self.patience:.0f} s", "Wait longer with --wait.")
        self.made.open_jobs.remove(job.job_id)
        self.made.job = job
        if job.status != "completed" or WORD not in (job.result or "").lower():
            said = f"{job.error.code}: {job.error.message}" if job.error else (job.result or "")[:200]
            raise Wrong(
                f"the job is {job.status}. {said}", f"`overnight logs {job.job_id}` tells what happened."
            )
        if job.archive is None:
            raise Wrong(
                "the job completed without an archive", "The worker's log says why it was not stored."
            )
        return f"completed by attempt {job.attempt}, ${job.cost_usd:.4f}, archive {job.archive}"

    async def _same(self) -> str:
        """The status comes from KV or the ledger, as the edge chooses; the ledger is the truth."""
        truth, shown = (await self.ledger.snapshot(self.made.job_id)).job, self.made.job
        if shown is None or (str(truth.status), truth.result) != (shown.status, shown.result):
            raise Wrong(
                "GET /status shows something else than the ledger has", "This is a fault of the edge."
            )
        return "the ledger has what GET /status shows"

    async def _mirror(self) -> str:
        """Whether KV has the status, and for seven days. A token without a right to KV cannot look."""
        key = status_key(self.made.job_id)
        try:
            async with opened_account_of(self.settings) as account:
                namespace = (await account.namespaces()).get(NAMESPACE)
                if namespace is None:
                    return f"not looked at: the account shows no KV namespace {NAMESPACE}"
                entries = await account.entries(namespace, prefix=key)
        except AccountProblem as problem:
            return f"not looked at: {problem}"
        if not entries:
            raise Wrong(
                f"KV has no {key}", "The Worker's log (`npx wrangler tail`) says why it was not written."
            )
        ends = entries[0].expires_at
        if ends is None or not 0 < ends - self.clock.now() <= SHOWN_SECONDS + SOON_SECONDS:
            raise Wrong(f"{key} does not end after seven days", "This is a fault of the edge.")
        return f"KV has it for {(ends - self.clock.now()) / 86_400:.1f} days"

    async def _events(self) -> str:
        events = [event async for event in self.client.events(self.made.job_id, follow=False)]
        numbers = [event.seq for event in events]
        kinds = [event.type for event in events]
        ends = [*kinds[:1], *kinds[-1:]]
        if numbers != list(range(1, len(events) + 1)) or ends != ["job.queued", "job.completed"]:
            raise Wrong(f"the events are not whole: {', '.join(kinds)}", "This is a fault of the ledger.")
        return f"{len(events)}, from job.queued to job.completed, without a gap"

    async def _cancel(self) -> str:
        job_id, _ = await self._submit(LONG_PROMPT, f"{self.token}-cancel", None)
        running = await self._when(job_id, lambda job: job.status != "queued", self.patience)
        if running is None:
            raise Wrong(f"no worker took the second job in {self.patience:.0f} s", START_A_WORKER)
        await self.client.cancel(job_id)
        job = await self._when(job_id, lambda job: job.final, SOON_SECONDS)
        if job is None or job.status != "cancelled":
            found = "still running" if job is None else job.status
            raise Wrong(
                f"a cancelled job is {found} after {SOON_SECONDS:.0f} s", "The worker's log says why."
            )
        self.made.open_jobs.remove(job_id)
        return "a running job was stopped"

    async def _webhook(self) -> str:
        """What the receiver made of it is its affair; that it answered with 2xx is ours."""

        async def delivered() -> str | None:
            owed = await self.ledger.deliveries(self.made.job_id)
            done = [each for each in owed if each.status is DeliveryStatus.DELIVERED]
            return f"delivered at try {len(done[0].tries)}" if done else None

        told = await _eventually(delivered, SOON_SECONDS)
        if told is None:
            raise Wrong(
                f"{self.callback_url} has not answered with 2xx in {SOON_SECONDS:.0f} s",
                f"GET /jobs/{self.made.job_id}/deliveries of the edge says what it answered.",
            )
        return told

    async def _submit(self, prompt: str, key: str, callback_url: str | None) -> tuple[str, str]:
        made = await self.client.submit(prompt, idempotency_key=key, **self._options(callback_url))
        self._note(made.job_id, made.session_id)
        return made.job_id, made.session_id

    def _options(self, callback_url: str | None) -> Any:
        options: dict[str, Any] = {"max_budget_usd": MAX_BUDGET_USD}
        return options if callback_url is None else options | {"callback_url": callback_url}

    def _note(self, job_id: str, session_id: str) -> None:
        self.made.open_jobs.append(job_id)
        self.made.sessions[session_id] = job_id

    async def _when(self, job_id: str, true: Callable[[Job], bool], seconds: float) -> Job | None:
        async def look() -> Job | None:
            job = await self.client.status(job_id)
            return job if true(job) else None

        return await _eventually(look, seconds)

    async def clear(self) -> str:
        """End what is open and erase the sessions, each by itself. Raises Wrong: what is left, and why."""
        left: list[str] = []
        for session_id, job_id in self.made.sessions.items():
            try:
                await self._end(job_id)
                await self._erase(session_id)
            except TROUBLES as error:
                left.append(f"session {session_id} is left: {error}")
        if left:
            raise Wrong("; ".join(left), "Nothing else is. `overnight cancel` ends a job that still runs.")
        return self._left()

    async def _end(self, job_id: str) -> None:
        if job_id not in self.made.open_jobs:
            return
        await self.client.cancel(job_id)
        if await self._when(job_id, lambda job: job.final, SOON_SECONDS) is None:
            raise Wrong(f"job {job_id} does not end")

    async def _erase(self, session_id: str) -> None:
        whole = await erase(
            session_id,
            caller=LOCAL,
            store=self.ledger,
            archives=self.archives,
            kept=KeptHere(self.settings.data),
            clock=self.clock,
        )
        if not whole:
            raise Wrong("its archives could not be deleted: delete them in the store")

    def _left(self) -> str:
        erased = f"{len(self.made.sessions)} sessions with their jobs, events and archives"
        if chosen_archives(self.settings) == "directory":
            return f"erased: {erased} (a worker with a directory of its own keeps the archives in it)"
        return f"erased: {erased}"


Tell = Callable[[str, str, float | None], None]
"""Called with the name of each step, what it found, and the seconds that it took; None: it failed."""


async def try_edge(smoke: Smoke, tell: Tell) -> None:
    """Every step in turn, then the clean-up, which is told as well. Raises SmokeFailed at the first that fails; what
    of the clean-up failed is raised only if nothing else did, and told if something did."""
    try:
        for name, act in smoke.steps():
            await _timed(name, act, tell)
    except BaseException:  # a Ctrl-C leaves nothing behind either
        try:
            await _timed("clean-up", smoke.clear, tell)
        except SmokeFailed as left:
            tell("clean-up", f"{left.reason} {left.remedy}", None)
        raise
    await _timed("clean-up", smoke.clear, tell)


async def _timed(name: str, act: Callable[[], Awaitable[str]], tell: Tell) -> None:
    clock = asyncio.get_running_loop()
    began = clock.time()
    try:
        told = await act()
    except TROUBLES as error:
        raise SmokeFailed(name, str(error), error.remedy if isinstance(error, Wrong) else "") from error
    tell(name, told, clock.time() - began)


async def _eventually(look: Callable[[], Awaitable[T | None]], seconds: float) -> T | None:
    """What `look` returns once it is not None; None after so many seconds. Nobody can call us from over there."""
    clock = asyncio.get_running_loop()
    ends = clock.time() + seconds
    while (found := await look()) is None and clock.time() < ends:  # noqa: ASYNC110 - as above
        await asyncio.sleep(LOOK_SECONDS)
    return found


@asynccontextmanager
async def opened_smoke(
    settings: Settings, *, patience: float, callback_url: str | None, own_worker: bool
) -> AsyncIterator[Smoke]:
    """`own_worker`: a worker of these settings runs while the block does. It takes whatever waits in the queue.

    Raises SettingsError, StorageError, OSError.
    """
    url = settings.edge_url or settings.url
    if url is None or settings.ledger_token is None:
        raise SettingsError(
            "OVERNIGHT_EDGE_URL and OVERNIGHT_LEDGER_TOKEN: set what is in worker.env, which `overnight cloudflare "
            "deploy` wrote."
        )
    if settings.api_key is None:
        raise SettingsError("OVERNIGHT_API_KEY: set a key of the edge with the scopes submit and read.")
    clock, entropy = SystemClock(), SystemEntropy()
    async with AsyncExitStack() as stack:
        documents = await stack.enter_async_context(
            edge_documents(url, settings.ledger_token.get_secret_value())
        )
        archives = await stack.enter_async_context(opened_archives(settings))
        client = await stack.enter_async_context(
            AsyncClient(url, api_key=settings.api_key.get_secret_value().strip())
        )
        if own_worker:
            working = running_worker(settings, redactor=redactor_of(settings))
            await stack.enter_async_context(working)
        yield Smoke(
            settings=settings,
            client=client,
            ledger=LedgerStore(documents, MemoryWakeups(), clock, Turns()),
            archives=archives,
            clock=clock,
            token=f"smoke-{entropy.session_id()}",
            patience=patience,
            callback_url=callback_url,
        )
