"""Signatures, judged by an independent verifier and by the snippets that the documentation gives to receivers."""

import re
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from overnight.domain.signature import new_secret, parse_secret, sign, sign_with_each

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"
MESSAGE_ID = "msg_0123456789abcdef0123456789abcdef"
SECRET = new_secret(bytes(range(32)))
OTHER_SECRET = new_secret(bytes(range(1, 33)))
BODY = '{"status":"completed","result":"déjà vu"}'.encode()

Verify = Callable[[str, dict[str, str], bytes], bool]

secrets = st.binary(min_size=24, max_size=64)
message_ids = st.text("0123456789abcdef", min_size=26, max_size=32).map("msg_{}".format)


def signed_headers(*written: str, body: bytes = BODY, age_seconds: int = 0) -> dict[str, str]:
    timestamp = int(time.time()) - age_seconds
    keys = [parse_secret(text) for text in written]
    return {
        "Webhook-Id": MESSAGE_ID,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": sign_with_each(keys, MESSAGE_ID, timestamp, body),
    }


@steady
@given(secrets, message_ids, st.integers(0, 2**32), st.text())
def test_the_independent_library_signs_the_same(
    key: bytes, message_id: str, timestamp: int, body: str
) -> None:
    expected = Webhook(key).sign(message_id, datetime.fromtimestamp(timestamp, tz=UTC), body)
    assert sign(key, message_id, timestamp, body.encode()) == expected


def test_a_body_that_is_not_text_can_be_signed() -> None:
    assert sign(bytes(24), MESSAGE_ID, 1, b"\xff\x00") != sign(bytes(24), MESSAGE_ID, 1, b"\xff\x01")


def test_while_a_secret_is_replaced_both_verify() -> None:
    headers = signed_headers(SECRET, OTHER_SECRET)
    for written in (SECRET, OTHER_SECRET):
        Webhook(written).verify(BODY, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret(bytes(32))).verify(BODY, headers, json_parse=False)


@pytest.mark.parametrize("message_id", ["", "msg_a.b"])
def test_an_id_that_makes_the_signed_text_ambiguous_is_refused(message_id: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        sign(bytes(24), message_id, 1, b"")


def test_nothing_is_sent_without_a_signature() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sign_with_each([], MESSAGE_ID, 1, b"")


@steady
@given(secrets)
def test_a_secret_survives_being_written_down(key: bytes) -> None:
    assert parse_secret(new_secret(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        b64encode(bytes(32)).decode(),
        "whsec_" + b64encode(bytes(23)).decode(),
        "whsec_" + b64encode(bytes(32)).decode().rstrip("="),
        "whsec_" + b64encode(bytes(32)).decode() + "\n",
        "whsec_canary canary canary canary canary canary",
        "whsec_" + "é" * 40,
        "WHSEC_" + b64encode(bytes(32)).decode(),
    ],
)
def test_a_bad_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="at least 24 random bytes") as caught:
        parse_secret(text)
    assert not text.removeprefix("whsec_") or text.removeprefix("whsec_") not in str(caught.value)


def test_a_short_secret_is_not_made() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        new_secret(bytes(23))


@steady
@given(st.text())
def test_any_text_is_a_secret_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert len(parse_secret("whsec_" + text)) >= 24


@pytest.fixture(params=["verify-with-library", "verify-by-hand"])
def documented_verify(request: pytest.FixtureRequest) -> Verify:
    found = re.search(
        rf"<!-- tested: {request.param} -->\n```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL
    )
    assert found is not None
    names: dict[str, Verify] = {}
    exec(compile(found[1], str(DOCUMENT), "exec"), names)
    return names["verify"]


def test_the_documented_receiver_accepts_what_we_sign(documented_verify: Verify) -> None:
    assert documented_verify(SECRET, signed_headers(SECRET), BODY)
    assert documented_verify(SECRET, signed_headers(OTHER_SECRET, SECRET), BODY)


@pytest.mark.parametrize(
    "forged",
    [
        lambda: (signed_headers(SECRET), BODY + b" "),
        lambda: (signed_headers(SECRET, body=b"\xff"), b"\xfe"),
        lambda: (signed_headers(OTHER_SECRET), BODY),
        lambda: (signed_headers(SECRET, age_seconds=310), BODY),
        lambda: (signed_headers(SECRET, age_seconds=-310), BODY),
        lambda: (signed_headers(SECRET) | {"Webhook-Id": "msg_other"}, BODY),
        lambda: (signed_headers(SECRET) | {"Webhook-Timestamp": str(int(time.time()) + 10)}, BODY),
        lambda: (signed_headers(SECRET) | {"Webhook-Timestamp": "soon"}, BODY),
        lambda: (signed_headers(SECRET) | {"Webhook-Signature": "v1"}, BODY),
        lambda: (signed_headers(SECRET) | {"Webhook-Signature": "v1,é"}, BODY),
        lambda: ({}, BODY),
    ],
)
def test_the_documented_receiver_refuses_the_rest(
    documented_verify: Verify, forged: Callable[[], tuple[dict[str, str], bytes]]
) -> None:
    headers, body = forged()
    assert not documented_verify(SECRET, headers, body)
