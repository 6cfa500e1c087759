"""The contract of KeyStore, over every adapter."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from overnight.domain.errors import KeyNotFound
from overnight.domain.keys import ApiKey, KeyLimits, Scope, digest, revoke, touch
from overnight.ports import KeyStore


def a_key(key_id: str = "ovn_aaaaaaaa", *, created_at: float = 1.0) -> ApiKey:
    return ApiKey(
        key_id=key_id,
        name="a name — with a dash",
        secret_sha256=digest("secret"),
        scopes=frozenset({Scope.SUBMIT, Scope.READ}),
        owner="alice",
        created_at=created_at,
        limits=KeyLimits(requests_per_minute=60, daily_budget_usd=1.5, models=("haiku", "opus")),
        webhook_secrets=("whsec_b", "whsec_a"),
        expires_at=99.5,
    )


async def test_a_key_comes_back_as_it_was_written(keys: KeyStore, twin_keys: KeyStore) -> None:
    assert await keys.create(a_key())
    assert await keys.find("ovn_aaaaaaaa") == a_key()
    assert await twin_keys.find("ovn_aaaaaaaa") == a_key()
    assert list(await twin_keys.keys()) == [a_key()]


async def test_an_id_is_given_once(keys: KeyStore) -> None:
    assert await keys.create(a_key())
    assert not await keys.create(replace(a_key(), owner="mallory"))
    assert (await keys.find("ovn_aaaaaaaa")).owner == "alice"


async def test_keys_are_listed_oldest_first(keys: KeyStore) -> None:
    assert list(await keys.keys()) == []
    for key_id, created_at in (("ovn_b", 2.0), ("ovn_c", 3.0), ("ovn_d", 1.0), ("ovn_a", 2.0)):
        await keys.create(a_key(key_id, created_at=created_at))
    assert [key.key_id for key in await keys.keys()] == ["ovn_d", "ovn_a", "ovn_b", "ovn_c"]


async def test_a_change_is_seen_by_others_at_once(keys: KeyStore, twin_keys: KeyStore) -> None:
    await keys.create(a_key())
    revoked = await twin_keys.change("ovn_aaaaaaaa", partial(revoke, now=5.0))
    assert revoked == replace(a_key(), revoked_at=5.0)
    assert await keys.find("ovn_aaaaaaaa") == revoked


async def test_a_change_that_is_none_writes_nothing_and_returns_what_is_there(keys: KeyStore) -> None:
    await keys.create(a_key())
    assert await keys.change("ovn_aaaaaaaa", lambda _: None) == a_key()
    assert await keys.find("ovn_aaaaaaaa") == a_key()


async def test_no_change_is_lost(keys: KeyStore, twin_keys: KeyStore) -> None:
    await keys.create(a_key())
    changes = [keys.change("ovn_aaaaaaaa", partial(touch, now=7.0))]
    changes += [twin_keys.change("ovn_aaaaaaaa", partial(revoke, now=8.0))]
    await asyncio.gather(*changes)
    assert await keys.find("ovn_aaaaaaaa") == replace(a_key(), last_used_at=7.0, revoked_at=8.0)


async def test_an_unknown_key_is_not_found(keys: KeyStore) -> None:
    with pytest.raises(KeyNotFound):
        await keys.find("ovn_aaaaaaaa")
    with pytest.raises(KeyNotFound):
        await keys.change("ovn_aaaaaaaa", partial(revoke, now=1.0))
