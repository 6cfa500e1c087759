"""Which session a job or a delivery belongs to: neither id says it (docs/decisions/0080)."""

from collections.abc import Iterable, Mapping

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.codec import Route
from overnight.adapters.cloudflare.documents import Batch, Documents, Read
from overnight.adapters.cloudflare.memory import Memory


class Routes:
    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._known: Memory[Route] = Memory()

    async def find(self, identifier: str) -> Route | None:
        """A route never changes. One whose session was erased meanwhile leads to nothing."""
        known = self._known.recall(identifier)
        if known is not None:
            return known
        found = await self._documents.read(codec.route_object(identifier), Read(keys=[identifier]))
        if identifier not in found:
            return None
        route = codec.decode(Route, found[identifier].body)
        self._known.keep(identifier, route)
        return route

    async def lay(self, route: Route, identifiers: Iterable[str]) -> None:
        """Before what they lead to is written: a route that leads nowhere harms nobody."""
        for name, group in _by_object(identifiers).items():
            put = dict.fromkeys(group, codec.encode(route))
            await self._documents.write(name, Batch(put=put))
            for identifier in group:
                self._known.keep(identifier, route)

    async def forget(self, identifiers: Iterable[str]) -> None:
        for name, group in _by_object(identifiers).items():
            for identifier in group:
                self._known.forget(identifier)
            await self._documents.write(name, Batch(delete=group))


def _by_object(identifiers: Iterable[str]) -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for identifier in identifiers:
        groups.setdefault(codec.route_object(identifier), []).append(identifier)
    return groups
