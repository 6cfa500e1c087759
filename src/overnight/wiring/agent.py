"""The agent of a worker, and what its runs may use."""

import contextlib
from collections.abc import AsyncIterator

from pydantic import SecretStr

from overnight.agent.grants import Allowance
from overnight.agent.run import Allow, ClaudeAgent, claude_agent
from overnight.flows.limits import Budgets
from overnight.ports import RunOrder
from overnight.rehearsal import serve_rehearsal
from overnight.wiring.base import Base


@contextlib.asynccontextmanager
async def opened_agent(base: Base) -> AsyncIterator[tuple[ClaudeAgent, str]]:
    """The agent, and in words where its API calls go: to the rehearsal API, if that is asked for.

    Raises IsolationUnavailable, FileNotFoundError (no CLI).
    """
    settings, upstream = base.settings, base.settings.anthropic_base_url
    async with contextlib.AsyncExitStack() as stack:
        if settings.rehearsal:
            url = await stack.enter_async_context(serve_rehearsal())
            settings = settings.model_copy(
                update={"anthropic_base_url": url, "anthropic_api_key": SecretStr("rehearsal")}
            )
            upstream = f"{url} (rehearsal: no key, no cost, no model)"
        allow = _allowing(base.budgets)
        opened = claude_agent(settings, clock=base.clock, entropy=base.entropy, allow=allow)
        yield await stack.enter_async_context(opened), upstream


def _allowing(budgets: Budgets) -> Allow:
    """What a run may use at the gateway is what its job's key allows."""

    @contextlib.asynccontextmanager
    async def allow(order: RunOrder) -> AsyncIterator[Allowance]:
        async with budgets.opened(order) as left:
            models = frozenset(order.models) if order.models else None
            yield Allowance(models=models, daily_usd=order.daily_budget_usd, budget_left=left)

    return allow
