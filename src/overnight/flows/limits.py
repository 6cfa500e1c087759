"""The limits of owners while their jobs run and wait: what a day has left, and whose turn it is."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from overnight.domain.errors import JobNotFound
from overnight.domain.holding import release
from overnight.domain.standing import day_of
from overnight.flows.bells import ring
from overnight.ports import Books, Clock, JobStore, Owners, Queue, RunOrder

BOOKS_SECONDS = 2.0
"""How old the books may be that a run is held to: what other processes spend is seen after this."""
LET_IN = 4
"""Jobs that try again when one of their owner's ends. More than one: the first may belong to a stricter key."""

Left = Callable[[float], float | None]
"""Told at every step what a run has used so far (US dollars), says how much its owner has left for it."""
LetIn = Callable[[str], Awaitable[None]]
"""Told of an owner of whom a job runs no longer."""


@dataclass(slots=True, eq=False)
class _Account:
    """What one attempt has used. It counts until its cost stands in the books."""

    owner: str
    attempt: tuple[str, int]
    budgeted: bool
    used: float = 0.0
    is_open: bool = True


class Budgets:
    """The budgets of days, as the runs of this process use them up.

    Spent is what stands in the books, and what attempts of this process use that does not stand there yet.
    """

    def __init__(self, owners: Owners, clock: Clock) -> None:
        self._owners = owners
        self._clock = clock
        self._books: dict[str, Books] = {}
        self._accounts: list[_Account] = []

    @asynccontextmanager
    async def opened(self, order: RunOrder) -> AsyncIterator[Left]:
        """While a run lasts. Raises StorageError."""
        budgeted = bool(order.owner) and order.daily_budget_usd is not None
        account = _Account(order.owner, (order.job_id, order.attempt), budgeted)
        self._accounts.append(account)
        try:
            if budgeted:
                await self._read(order.owner)
            yield lambda used: self._left(account, order.daily_budget_usd, used)
        finally:
            account.is_open = False

    async def refresh(self) -> None:
        """Read the books of those who have runs here that they hold. Raises StorageError."""
        held = {account.owner for account in self._accounts if account.budgeted}
        for owner in held:
            await self._read(owner)
        self._accounts = [account for account in self._accounts if account.owner in held or account.is_open]

    async def _read(self, owner: str) -> None:
        books = await self._owners.books(owner, day=day_of(self._clock.now()))
        self._books[owner] = books
        self._accounts = [
            account
            for account in self._accounts
            if account.owner != owner or account.is_open or account.attempt in books.running
        ]

    def _left(self, account: _Account, budget: float | None, used: float) -> float | None:
        account.used = used
        if budget is None or account.owner not in self._books:
            return None
        others = [
            other.used for other in self._accounts if other.owner == account.owner and other is not account
        ]
        return budget - self._books[account.owner].spent_usd - sum(others)


async def let_in(owner: str, *, owners: Owners, store: JobStore, queue: Queue, clock: Clock) -> None:
    """A job of the owner runs no longer: those that waited for that try again. Raises StorageError."""
    if not owner:
        return
    for job_id in await owners.held(owner, limit=LET_IN):
        try:
            change = await store.change(job_id, release(now=clock.now()))
        except JobNotFound:
            continue  # Its session was erased meanwhile.
        await ring(queue, change.rings)


async def nobody(_owner: str) -> None:
    """For a store that cannot find the jobs of an owner: there they are only tried again."""
