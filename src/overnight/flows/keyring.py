"""The keys as a running process sees them: read again within a second, so new and revoked ones need no restart."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from overnight.domain import keys
from overnight.domain.keys import LOCAL, ApiKey, Caller, InvalidKey, parse_key
from overnight.domain.signature import parse_secret
from overnight.ports import Clock, KeyStore, StorageError

log = logging.getLogger(__name__)

CACHE_SECONDS = 1.0
"""How long a revoked key may still open the door."""


Learn = Callable[[Iterable[str]], None]
"""Told the live webhook secrets of all keys whenever they are read."""


def _nothing(_secrets: Iterable[str]) -> None:
    pass


class KeyRing:
    """All keys are read at once: unknown ids, which a stranger can make any number of, are then never kept."""

    def __init__(self, store: KeyStore, clock: Clock, *, learn: Learn = _nothing) -> None:
        self._store = store
        self._clock = clock
        self._learn = learn
        self._keys: Mapping[str, ApiKey] = {}
        self._read_at: float | None = None

    async def refresh(self) -> None:
        """For a process that nobody calls: see what changed. Raises StorageError."""
        await self._current()

    async def any(self) -> bool:
        """Whether a key was ever made: from then on nobody gets in without one."""
        return bool(await self._current())

    async def caller(self, text: str | None) -> Caller | None:
        """Who presents this text as a key; None if it opens nothing. Raises StorageError."""
        current = await self._current()
        if not current:
            return LOCAL
        try:
            presented = parse_key(text or "")
        except InvalidKey:
            return None
        now = self._clock.now()
        stored = current.get(presented.key_id)
        caller = keys.caller_of(presented, stored, now=now)
        if caller is not None and stored is not None and keys.touch(stored, now=now) is not None:
            await self._note_use(stored.key_id, now)
        return caller

    async def webhook_secrets(self, key_id: str) -> tuple[bytes, ...]:
        """Of a revoked key too: what its jobs owe is still signed as their receivers expect. Raises KeyNotFound."""
        key = await self._store.find(key_id)
        return tuple(parse_secret(secret) for secret in key.webhook_secrets)

    async def _current(self) -> Mapping[str, ApiKey]:
        now = self._clock.now()
        if self._read_at is None or not 0 <= now - self._read_at < CACHE_SECONDS:
            self._keys = {key.key_id: key for key in await self._store.keys()}
            self._read_at = now
            self._learn([secret for key in self._keys.values() for secret in key.webhook_secrets])
        return self._keys

    async def _note_use(self, key_id: str, now: float) -> None:
        try:
            used = await self._store.change(key_id, partial(keys.touch, now=now))
        except StorageError:
            log.exception("could not note the use of a key")  # reading must work on a full disk too
        else:
            self._keys = {**self._keys, key_id: used}
