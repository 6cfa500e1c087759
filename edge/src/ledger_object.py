"""One object of the ledger in a Durable Object: versioned documents in its SQLite storage, and an alarm."""

from workers import DurableObject

from front import this_edge
from overnight.adapters.cloudflare.documents import Found, Written, batch_order, read_order, text
from overnight.adapters.cloudflare.object_rows import ObjectRows
from overnight.adapters.cloudflare.tended import TendedObject
from tending import tend


class Ledger(DurableObject):
    """Orders and answers are JSON (`overnight.adapters.cloudflare.documents`)."""

    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        self._storage = ctx.storage
        self._rows = ObjectRows(self._executed)
        self._made = None

    async def read(self, order: str) -> str:
        return text(Found(self._rows.read(read_order.decode(order))))

    async def write(self, order: str) -> str:
        return text(Written(await self._tended.write(batch_order.decode(order))))

    async def alarm(self, _info=None) -> None:
        edge = this_edge()
        await self._tended.alarm(lambda sight: tend(edge, sight), chance=edge.entropy.chance())

    @property
    def _tended(self) -> TendedObject:
        """Made with the first call: a Worker may draw no random number while it starts."""
        if self._made is None:
            edge = this_edge()
            self._made = TendedObject(self._storage, self._rows, edge.clock, edge.tend_seconds)
        return self._made

    def _executed(self, statement: str, *values) -> list:
        return [tuple(row) for row in self._storage.sql.exec(statement, *values).raw().toArray()]
