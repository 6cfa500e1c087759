"""API keys in memory: the reference for the contract suite, and the quick store of other tests."""

from collections.abc import Callable, Sequence

from overnight.domain.errors import KeyNotFound
from overnight.domain.keys import ApiKey


class MemoryKeys:
    """The port `KeyStore`."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    async def create(self, key: ApiKey) -> bool:
        return self._keys.setdefault(key.key_id, key) is key

    async def find(self, key_id: str) -> ApiKey:
        return self._find(key_id)

    async def keys(self) -> Sequence[ApiKey]:
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.key_id))

    async def change(self, key_id: str, decide: Callable[[ApiKey], ApiKey | None]) -> ApiKey:
        before = self._find(key_id)
        after = decide(before)
        self._keys[key_id] = after or before
        return after or before

    def _find(self, key_id: str) -> ApiKey:
        if key_id not in self._keys:
            raise KeyNotFound("no such key")
        return self._keys[key_id]
