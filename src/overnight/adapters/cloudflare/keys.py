"""The API keys of an edge: a secret that edge and workers share, with the keys as hashes."""

from collections.abc import Callable, Sequence

import msgspec

from overnight.domain.errors import KeyNotFound
from overnight.domain.keys import ApiKey
from overnight.ports import StorageFailed

_keys = msgspec.json.Decoder(list[ApiKey])


class SecretKeys:
    """The port `KeyStore`, as far as it can be read. `secret` is a JSON list of keys."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret

    async def create(self, key: ApiKey) -> bool:
        raise StorageFailed("The keys of an edge are its secret OVERNIGHT_KEYS: change that.")

    async def keys(self) -> Sequence[ApiKey]:
        """Without keys nobody gets in: an edge is public."""
        try:
            keys = _keys.decode(self._secret or "[]")
        except msgspec.DecodeError:
            keys = []
        if not keys:
            raise StorageFailed("The edge has no API keys: set the secret OVERNIGHT_KEYS.")
        return keys

    async def find(self, key_id: str) -> ApiKey:
        for key in await self.keys():
            if key.key_id == key_id:
                return key
        raise KeyNotFound("no such key")

    async def change(self, key_id: str, decide: Callable[[ApiKey], ApiKey | None]) -> ApiKey:
        """When a key was last used is not noted: the secret does not change."""
        return await self.find(key_id)
