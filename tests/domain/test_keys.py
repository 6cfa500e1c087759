"""The form of API keys, and which of them open the door."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.errors import RotationUnderWay
from overnight.domain.keys import (
    LOCAL,
    ApiKey,
    InvalidKey,
    PresentedKey,
    Scope,
    caller_of,
    digest,
    finish_webhook_rotation,
    new_key,
    parse_key,
    parse_owner,
    revoke,
    rotate_webhook_secret,
    touch,
)

RANDOM = bytes(range(40))
TEXT = new_key(RANDOM)
PRESENTED = parse_key(TEXT)
KEY = ApiKey(
    key_id=PRESENTED.key_id,
    name="laptop",
    secret_sha256=digest(PRESENTED.secret),
    scopes=frozenset({Scope.READ}),
    owner="alice",
    created_at=100.0,
)

random = st.binary(min_size=40, max_size=40)


@given(random=random)
def test_a_key_has_a_prefix_an_id_a_secret_and_a_checksum(random: bytes) -> None:
    text = new_key(random)
    parsed = parse_key(text)
    assert len(text) == 4 + 8 + 43 + 6
    assert text.startswith("ovn_")
    assert text.isascii()
    assert (len(parsed.key_id), len(parsed.secret)) == (12, 43)
    assert text == parsed.key_id + parsed.secret + text[-6:]


@given(one=random, other=random)
def test_the_whole_secret_counts(one: bytes, other: bytes) -> None:
    assert (new_key(one) == new_key(other)) == (
        one[8:] == other[8:] and new_key(one)[:12] == new_key(other)[:12]
    )


@given(random=random, place=st.integers(4, 60), letter=st.sampled_from("0aZ9"))
def test_a_typing_error_is_noticed(random: bytes, place: int, letter: str) -> None:
    text = new_key(random)
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong != text:
        with pytest.raises(InvalidKey):
            parse_key(wrong)


@given(text=st.one_of(st.text(), st.from_regex(r"ovn_[0-9A-Za-z]{57}\n?", fullmatch=True)))
def test_other_text_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidKey, match=r"^that is not an API key of overnight$"):
        parse_key(text)


def test_the_right_secret_makes_a_caller() -> None:
    caller = caller_of(PRESENTED, KEY, now=200.0)
    assert caller is not None
    assert (caller.owner, caller.key_id, caller.lists) == ("alice", KEY.key_id, "alice")
    assert caller.may(Scope.READ)
    assert not caller.may(Scope.SUBMIT)
    assert caller.sees("alice")
    assert not caller.sees("bob")


@pytest.mark.parametrize(
    "stored",
    [
        None,
        replace(KEY, secret_sha256=digest("another")),
        replace(KEY, secret_sha256="0" * 64),
        replace(KEY, revoked_at=150.0),
        replace(KEY, expires_at=200.0),
    ],
    ids=["unknown", "wrong", "dummy", "revoked", "expired"],
)
def test_any_other_key_makes_none(stored: ApiKey | None) -> None:
    assert caller_of(PRESENTED, stored, now=200.0) is None


def test_a_key_lives_until_it_expires() -> None:
    assert caller_of(PRESENTED, replace(KEY, expires_at=200.5), now=200.0) is not None


def test_a_secret_that_is_not_text_in_ascii_is_only_wrong() -> None:
    assert caller_of(PresentedKey(KEY.key_id, "ü" * 43), KEY, now=200.0) is None


def test_an_administrator_may_and_sees_everything() -> None:
    assert all(LOCAL.may(scope) for scope in Scope)
    assert LOCAL.sees("anybody")
    assert LOCAL.lists is None


def test_a_key_is_revoked_once() -> None:
    revoked = revoke(KEY, now=150.0)
    assert revoked is not None
    assert revoked.revoked_at == 150.0
    assert revoke(revoked, now=160.0) is None


def test_a_use_is_noted_once_a_minute() -> None:
    used = touch(KEY, now=200.0)
    assert used is not None
    assert used.last_used_at == 200.0
    assert touch(used, now=259.0) is None
    assert touch(used, now=260.0) is not None


def test_two_webhook_secrets_are_live_while_one_takes_the_place_of_the_other() -> None:
    first = replace(KEY, webhook_secrets=("whsec_1",))
    both = rotate_webhook_secret(first, secret="whsec_2")
    assert both.webhook_secrets == ("whsec_2", "whsec_1")
    with pytest.raises(RotationUnderWay):
        rotate_webhook_secret(both, secret="whsec_3")
    finished = finish_webhook_rotation(both)
    assert finished is not None
    assert finished.webhook_secrets == ("whsec_2",)
    assert finish_webhook_rotation(finished) is None


@pytest.mark.parametrize("text", ["", "a b", "a" * 65, "ü", "a\n"])
def test_an_owner_is_a_plain_word(text: str) -> None:
    with pytest.raises(InvalidKey):
        parse_owner(text)


def test_the_secret_does_not_show() -> None:
    assert PRESENTED.secret not in repr(PRESENTED)
