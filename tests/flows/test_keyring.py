"""What a running process knows of the keys, and when."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from overnight.adapters.memory_keys import MemoryKeys
from overnight.domain.errors import KeyNotFound
from overnight.domain.keys import LOCAL, ApiKey, KeyLimits, Scope, make_key, revoke, rotate_webhook_secret
from overnight.domain.signature import new_secret, parse_secret
from overnight.flows.keyring import CACHE_SECONDS, KeyRing

OLD, NEW = new_secret(bytes(32)), new_secret(bytes([1] * 32))


class CountedKeys(MemoryKeys):
    reads = 0

    async def keys(self) -> Any:
        self.reads += 1
        return await super().keys()


def a_key(number: int = 1) -> tuple[str, ApiKey]:
    return make_key(
        name="k",
        owner="alice",
        scopes=frozenset({Scope.READ}),
        limits=KeyLimits(),
        webhook_secret=OLD,
        expires_at=None,
        random=bytes([number] * 40),
        now=1.0,
    )


@pytest.fixture
def store() -> CountedKeys:
    return CountedKeys()


@pytest.fixture
def ring(store: CountedKeys, world: Any) -> KeyRing:
    return KeyRing(store, world.clock)


async def test_new_and_revoked_keys_are_noticed_within_a_second(
    ring: KeyRing, store: CountedKeys, world: Any
) -> None:
    text, key = a_key()
    assert await ring.caller(None) is LOCAL
    assert not await ring.any()
    await store.create(key)
    world.clock.time += CACHE_SECONDS
    assert await ring.any()
    assert await ring.caller(None) is None
    caller = await ring.caller(text)
    assert caller is not None
    assert (caller.owner, caller.key_id) == ("alice", key.key_id)
    await store.change(key.key_id, partial(revoke, now=world.clock.now()))
    world.clock.time += CACHE_SECONDS
    assert await ring.caller(text) is None
    assert await ring.any()


async def test_a_burst_of_requests_reads_the_keys_once_whatever_they_present(
    ring: KeyRing, store: CountedKeys
) -> None:
    text, key = a_key()
    await store.create(key)
    for number in range(2, 100):
        assert await ring.caller(a_key(number)[0]) is None
        assert await ring.caller(text) is not None
    assert store.reads == 1


async def test_a_clock_that_is_set_back_keeps_no_revoked_key_alive(
    ring: KeyRing, store: CountedKeys, world: Any
) -> None:
    text, key = a_key()
    await store.create(key)
    assert await ring.caller(text) is not None
    await store.change(key.key_id, partial(revoke, now=world.clock.now()))
    world.clock.time -= 3600
    assert await ring.caller(text) is None


async def test_the_secrets_of_a_key_are_those_that_are_live_also_when_it_is_revoked(
    ring: KeyRing, store: CountedKeys
) -> None:
    _, key = a_key()
    await store.create(replace(key, revoked_at=2.0))
    await store.change(key.key_id, partial(rotate_webhook_secret, secret=NEW))
    assert await ring.webhook_secrets(key.key_id) == (parse_secret(NEW), parse_secret(OLD))
    with pytest.raises(KeyNotFound):
        await ring.webhook_secrets("ovn_aaaaaaaa")


async def test_webhook_secrets_are_learned_when_keys_change(store: CountedKeys, world: Any) -> None:
    learned: list[list[str]] = []
    ring = KeyRing(store, world.clock, learn=lambda secrets: learned.append(list(secrets)))
    await ring.refresh()
    _, key = a_key()
    await store.create(key)
    await ring.refresh()
    assert learned == [[]], "it was read a moment ago"
    world.clock.time += CACHE_SECONDS
    await ring.refresh()
    await store.change(key.key_id, partial(rotate_webhook_secret, secret=NEW))
    await store.change(key.key_id, partial(revoke, now=1.0))
    world.clock.time += CACHE_SECONDS
    await ring.refresh()
    assert learned == [[], [OLD], [NEW, OLD]], "also those of a revoked key: its jobs owe webhooks"
