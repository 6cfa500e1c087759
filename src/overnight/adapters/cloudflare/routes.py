"""Which session a job or a delivery belongs to: neither id says it (docs/decisions/0080)."""

from collections.abc import Iterable, Mapping

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.codec import Route
from overnight.adapters.cloudflare.documents import Batch, Documents, Read


class Routes:
    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def find(self, identifier: str) -> Route | None:
        found = await self._documents.read(codec.route_object(identifier), Read(keys=[identifier]))
        return codec.decode(Route, found[identifier].body) if identifier in found else None

    async def lay(self, route: Route, identifiers: Iterable[str]) -> None:
        """Before what they lead to is written: a route that leads nowhere harms nobody."""
        for name, group in _by_object(identifiers).items():
            put = dict.fromkeys(group, codec.encode(route))
            await self._documents.write(name, Batch(put=put))

    async def forget(self, identifiers: Iterable[str]) -> None:
        for name, group in _by_object(identifiers).items():
            await self._documents.write(name, Batch(delete=group))


def _by_object(identifiers: Iterable[str]) -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for identifier in identifiers:
        groups.setdefault(codec.route_object(identifier), []).append(identifier)
    return groups
