"""One attempt of a job: Claude Code in its sandbox, from the prompt to the outcome.

The end is the same for every run, also for one that finished well: whatever still lives is killed, and that
nothing is left is looked at before `run` returns. A run that must stop goes down a ladder: it is asked
(`interrupt`, so that the conversation is whole and the cost known), waited for, hung up on, killed.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

from overnight.agent import processes, supervised
from overnight.agent.conversation import Conversation, Emit
from overnight.agent.counted import Counted, begin_counting
from overnight.agent.denials import Denials
from overnight.agent.egress import Egress
from overnight.agent.environment import environment
from overnight.agent.gateway import Gateway, open_gateway
from overnight.agent.grants import Allowance, Grant
from overnight.agent.isolation import Isolation, IsolationUnavailable, choose_tier
from overnight.agent.machine import find_cli, machine_of
from overnight.agent.network import RunNetwork
from overnight.agent.options import (
    has_conversation,
    options_for,
    set_aside,
    transcripts_of,
    write_system_prompt,
)
from overnight.agent.outcome import KEPT, Record, outcome_of
from overnight.agent.prices import Metered
from overnight.agent.slots import Slots, clear
from overnight.agent.tasks import cancelled, to_the_end
from overnight.agent.tiers import RUN_DIRECTORY, Tier
from overnight.agent.traffic import Traffic
from overnight.archive import remove_tree
from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.redaction import Redactor
from overnight.ports import Clock, Entropy, Owner, RunOrder, Slot, Stop, Workspace
from overnight.resolving import Resolver, system_resolver
from overnight.settings import Settings

__all__ = ["ClaudeAgent", "IsolationUnavailable", "claude_agent"]

HANG_UP_SECONDS = 2.0
"""For the CLI to leave once its input is closed; it needs 0.1 s. After that it is killed."""

Allow = Callable[[RunOrder], contextlib.AbstractAsyncContextManager[Allowance]]
"""What the owner of a job may use, for as long as the job's run lasts."""

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def unlimited(_order: RunOrder) -> AsyncIterator[Allowance]:
    yield Allowance()


@contextlib.asynccontextmanager
async def claude_agent(
    settings: Settings,
    *,
    clock: Clock,
    entropy: Entropy,
    allow: Allow = unlimited,
    resolver: Resolver = system_resolver,
) -> AsyncIterator["ClaudeAgent"]:
    """Choose the tier and open the gateway. `allow` says what the owner of a job may use; the job's own budget
    comes on top. Raises IsolationUnavailable, FileNotFoundError (no CLI)."""
    cli = find_cli()
    await asyncio.to_thread(settings.data.mkdir, mode=0o700, parents=True, exist_ok=True)
    async with (
        machine_of(settings, cli) as machine,
        open_gateway(settings.anthropic_base_url, _credentials(settings), now=clock.now) as gateway,
    ):
        yield ClaudeAgent(
            settings=settings,
            chosen=await choose_tier(settings.isolation, machine),
            slots=machine.slots,
            gateway=gateway,
            egress=Egress(settings.egress_policy, resolver),
            allow=allow,
            entropy=entropy,
            cli=cli,
        )


def _credentials(settings: Settings) -> dict[str, str]:
    if settings.anthropic_api_key is not None:
        return {"x-api-key": settings.anthropic_api_key.get_secret_value()}
    if settings.anthropic_auth_token is not None:
        return {"authorization": f"Bearer {settings.anthropic_auth_token.get_secret_value()}"}
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeAgent:
    """The port `Agent`."""

    settings: Settings
    chosen: Isolation
    slots: Slots
    gateway: Gateway
    egress: Egress
    allow: Allow
    entropy: Entropy
    cli: Path

    @property
    def tier(self) -> Tier:
        return self.chosen.tier

    @property
    def isolation(self) -> str:
        return self.tier.name

    @property
    def isolation_properties(self) -> Mapping[str, bool]:
        return self.chosen.properties

    @property
    def refusal(self) -> str | None:
        """Why no job may be run here, and what to do; None if jobs may."""
        if self.settings.allow_unsandboxed is not None:
            return None
        return self.chosen.refusal(self.settings.min_isolation)

    @contextlib.asynccontextmanager
    async def slot(self, *, prefer: Owner | None = None) -> AsyncIterator[Slot]:
        if not self.chosen.owned:
            yield Slot()
            return
        async with self.slots.taken(prefer) as owner:
            yield Slot(owner=owner)

    async def run(self, order: RunOrder, *, emit: Emit, stop: Stop) -> Outcome:
        if stop.is_set():
            return Outcome(ending=Ending.INTERRUPTED)
        try:
            return await self._attempt(order, emit, stop)
        except Exception as error:  # noqa: BLE001 - the port promises an outcome, whatever breaks
            return _broken(order, error, Metered(), "The session is as it was before the job.")

    async def reap(self, root: Path) -> None:
        """Raises OSError if something cannot be killed: the workspace must not be used then."""
        await supervised.let_end(root)
        await processes.reap(root, await asyncio.to_thread(self._user_of, root))

    def _user_of(self, root: Path) -> int | None:
        """Of the run that was last in this workspace, as long as no other has it."""
        mark = processes.noted(root)
        return None if mark is None else self.slots.user_of(mark)

    async def _attempt(self, order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
        workspace, token, mark = order.workspace, self.entropy.token(), self.entropy.token()
        # The token opens the gateway as long as the run lasts.
        redactor = Redactor({"run_token": token}, shapes=False)
        wants_structure = order.request.output_schema is not None

        def tell(kind: str, data: Mapping[str, Any]) -> None:
            emit(kind, redactor.data(data))

        await self.reap(workspace.root)
        await asyncio.to_thread(self._note, workspace, mark)
        try:
            async with self._granted(order, token) as grant:
                try:
                    record = await _Launch(self, order, token, mark, grant).run(tell, stop)
                    outcome = outcome_of(record, stopped=stop.is_set(), wants_structure=wants_structure)
                    return redactor.outcome(outcome)
                except Exception as error:  # noqa: BLE001 - whatever breaks, what was used by then is charged
                    return _broken(order, error, grant.used, KEPT)
        finally:
            await to_the_end(_clean_up(workspace, mark))

    def _note(self, workspace: Workspace, mark: str) -> None:
        processes.note(workspace.root, mark)
        if workspace.owner is not None:
            self.slots.note(workspace.owner, mark)

    @contextlib.asynccontextmanager
    async def _granted(self, order: RunOrder, token: str) -> AsyncIterator[Grant]:
        async with self.allow(order) as allowed:
            with self.gateway.grant(token, _within_own_budget(allowed, order)) as grant:
                yield grant


def _within_own_budget(allowed: Allowance, order: RunOrder) -> Allowance:
    """The budget of a job is for all its attempts together."""
    budget = order.request.max_budget_usd
    return allowed if budget is None else dataclasses.replace(allowed, usd=budget - order.spent_usd)


def _broken(order: RunOrder, error: Exception, used: Metered, kept: str) -> Outcome:
    _log.error("the run of job %s broke", order.job_id, exc_info=error)
    outcome = failed(
        ErrorCode.INTERNAL,
        f"The service could not run the agent ({type(error).__name__}). {kept} It is tried again; the log of the "
        "service says more.",
    )
    return dataclasses.replace(outcome, usage=used.usage, cost_usd=used.cost_usd)


@dataclass(frozen=True, slots=True)
class _Launch:
    """The starts of the CLI for one attempt: a second one is needed if there was nothing to resume."""

    agent: ClaudeAgent
    order: RunOrder
    token: str
    mark: str
    grant: Grant
    traffic: Traffic = field(default_factory=Traffic)

    async def run(self, emit: Emit, stop: Stop) -> Record:
        workspace, session_id = self.order.workspace, self.order.session_id
        resume = await asyncio.to_thread(has_conversation, workspace, session_id)
        record = await self._once(resume, emit, stop)
        if resume and record.conversation_missing and not stop.is_set():
            await asyncio.to_thread(set_aside, workspace, session_id)
            record = await self._once(False, emit, stop)
        emit("run.traffic", {"gateway": self.grant.traffic.told(), "egress": self.traffic.told()})
        return record

    async def _once(self, resume: bool, emit: Emit, stop: Stop) -> Record:
        record = Record(counted=await asyncio.to_thread(self._begin_counting))
        async with self.agent.tier.network(self.order.workspace) as network:
            options = await asyncio.to_thread(self._prepare, resume, record, network)
            conversation = Conversation(ClaudeSDKClient(options), self.order.prompt, emit, record)
            serving = asyncio.create_task(self._serve(network, emit))
            talking = asyncio.create_task(conversation.hold())
            try:
                await self._until_over(conversation, talking, serving, stop)
            finally:
                try:
                    await to_the_end(self._finish(conversation, talking))
                except OSError:
                    if record.result is None:
                        raise
                    _log.exception("the end of job %s is left to the cleaning up", self.order.job_id)
                finally:
                    await to_the_end(cancelled(serving))
        if talking.done() and not talking.cancelled():
            talking.result()
        self._note_calls(record)
        return record

    def _begin_counting(self) -> Counted:
        order = self.order
        transcripts = transcripts_of(order.workspace, order.session_id)
        return begin_counting(
            order.workspace.root,
            transcripts,
            job_id=order.job_id,
            attempt=order.attempt,
            charged=order.charged_attempt,
        )

    async def _serve(self, network: RunNetwork, emit: Emit) -> None:
        """Gateway and egress proxy, on listeners of this run alone, for as long as it lasts."""
        agent, denials, listeners = self.agent, Denials(emit), await network.listeners()
        with contextlib.closing(listeners), contextlib.closing(denials):
            async with (
                agent.gateway.listening(listeners.gateway, only=self.grant),
                agent.egress.listening(listeners.egress, denials.note, self.traffic),
            ):
                await asyncio.Event().wait()

    def _note_calls(self, record: Record) -> None:
        grant = self.grant
        record.unreachable = grant.unreachable
        record.resets_at = record.resets_at or grant.resets_at
        record.over_budget = grant.over_budget.is_set()
        record.over_daily_usd = grant.allowance.daily_usd if grant.over_daily else None
        record.metered = grant.used
        _log.info(
            "job %s, attempt %d: %d tokens, $%.6f by the gateway's count",
            self.order.job_id,
            self.order.attempt,
            record.metered.tokens,
            record.metered.cost_usd,
        )

    async def _until_over(
        self,
        conversation: Conversation,
        talking: "asyncio.Task[None]",
        serving: "asyncio.Task[None]",
        stop: Stop,
    ) -> None:
        told = asyncio.create_task(stop.wait())
        spent = asyncio.create_task(self.grant.over_budget.wait())
        try:
            await asyncio.wait({talking, serving, told, spent}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and not talking.done():
                serving.result()
            if told.done():
                # A lost lease is one of the reasons, and for none of them is another call wanted.
                self.grant.revoke()
            if not talking.done():
                await conversation.interrupt(talking, self.agent.settings.stop_grace_seconds)
        finally:
            told.cancel()
            spent.cancel()

    async def _finish(self, conversation: Conversation, talking: "asyncio.Task[None]") -> None:
        hanging_up = None
        if conversation.has_result:
            hanging_up = asyncio.create_task(conversation.client.disconnect())
            await asyncio.wait({hanging_up}, timeout=HANG_UP_SECONDS)
        await self._kill(talking)
        hanging_up = hanging_up or asyncio.create_task(conversation.client.disconnect())
        await asyncio.wait({hanging_up}, timeout=processes.KILL_SECONDS)

    async def _kill(self, talking: "asyncio.Task[None]") -> None:
        """Until nothing of the run is left, also if it is only about to start. The conversation ends by itself
        when the CLI is dead; to cancel it would cut into the SDK's own cleaning up."""
        deadline = asyncio.get_running_loop().time() + processes.KILL_SECONDS
        while True:
            await supervised.let_end(self.order.workspace.root)
            left = await processes.end(self.mark, _uid(self.order.workspace))
            await asyncio.wait({talking}, timeout=0.05)
            if talking.done() and not left:
                return
            if asyncio.get_running_loop().time() > deadline:
                _log.critical("the run of job %s cannot be ended: %s", self.order.job_id, left)
                talking.cancel()
                return

    def _prepare(self, resume: bool, record: Record, network: RunNetwork) -> ClaudeAgentOptions:
        agent, order = self.agent, self.order
        view = agent.tier.view(order.workspace)
        names = environment(
            view,
            gateway=network.gateway_url,
            proxy=network.proxy_url,
            token=self.token,
            mark=self.mark,
            project=order.workspace.transcripts.name,
            api_retries=agent.settings.agent_api_retries,
            as_root=agent.tier.as_root and order.workspace.owner is None,
        )
        launcher = agent.tier.launch(order.workspace, names, agent.cli, network)
        append = write_system_prompt(order, agent.settings, order.workspace.root / RUN_DIRECTORY / "given")
        return options_for(
            order,
            agent.settings,
            launcher=launcher,
            view=view,
            resume=resume,
            append=append,
            stderr=record.hear,
        )


async def _clean_up(workspace: Workspace, mark: str) -> None:
    """The outcome is paid for: what cannot be done is said in the log. Who uses the workspace or the user next begins
    with the same."""
    root = workspace.root
    try:
        if workspace.owner is not None:
            # What is kept here must not be found by the user's next run. It may be gone: a sweep took the job back.
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(root.chmod, 0o700)
        if await processes.end(mark, _uid(workspace)):
            return
        with contextlib.suppress(OSError):
            await asyncio.to_thread(remove_tree, root / RUN_DIRECTORY)
        await asyncio.to_thread(processes.forget, root)
        if workspace.owner is not None:
            await clear(workspace.owner)
    except OSError:
        _log.exception("what a run left in %s could not be cleaned up", root)


def _uid(workspace: Workspace) -> int | None:
    return workspace.owner[0] if workspace.owner else None
