"""No loaded secret survives, in any of the ways it may be written; a text without secrets stays as it is."""

import base64
import json
import string
import subprocess
import sys
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.redaction import LEAST, SHAPES, Redactor

KEY = "sk-test/Canary+7f3a9c2e51b84d06=end"
VISIBLE = string.ascii_letters + string.digits + "!#$%&'()*+,-./:;<=>?@^_`{|}~\"\\"
secrets = st.text(VISIBLE, min_size=LEAST, max_size=60)
words = st.text(string.ascii_lowercase + " \n\u00e9\u4e2d", max_size=40)

SHAPED = {
    "anthropic_key": "sk-ant-api03-" + "aB3_-" * 12,
    "overnight_key": "ovn_" + "abcd1234" + "Z9" * 22 + "abc123",
    "webhook_secret": "whsec_" + "QUJDREVG" * 4,
    "supabase_key": "sbp_" + "0123456789abcdef" * 2,
    "github_token": "ghp_" + "aB3d" * 9,
    "aws_key": "AKIA" + "IOSFODNN7EXAMPLE",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.c2lnbmF0dXJlLWNhbmFyeQ",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAK\n-----END RSA PRIVATE KEY-----",
}


@given(secrets, st.lists(words, min_size=1, max_size=4))
def test_no_loaded_secret_survives(secret: str, around: list[str]) -> None:
    redactor = Redactor({"key": secret}, shapes=False)
    for written in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.encode().hex()):
        told = redactor.text(written.join(["", *around, ""]))
        assert written not in told
        assert "[redacted:key]" in told


@given(secrets, st.binary(max_size=7), st.binary(max_size=7))
def test_no_loaded_secret_survives_in_base64(secret: str, before: bytes, after: bytes) -> None:
    told = Redactor({"key": secret}).text(base64.b64encode(before + secret.encode() + after).decode())
    assert "[redacted:key]" in told


@given(secrets, secrets, words)
def test_secrets_that_overlap_are_both_blanked(first: str, second: str, word: str) -> None:
    redactor = Redactor({"one": first, "two": second}, shapes=False)
    for text in (first + second, second + word + first, first[:-1] + second + first):
        told = redactor.text(text)
        assert first not in told
        assert second not in told


@given(secrets, words, words)
def test_blanking_twice_is_blanking_once(secret: str, before: str, after: str) -> None:
    redactor = Redactor({"key": secret})
    once = redactor.text(before + secret + after + SHAPED["jwt"])
    assert redactor.text(once) == once


@given(st.text(max_size=300))
def test_a_text_without_secrets_is_unchanged(text: str) -> None:
    assert Redactor({"key": KEY}, shapes=False).text(text) is text


@pytest.mark.parametrize("before", ["", "\\n", "%3D", "token_", "eyJ-"])
def test_a_jwt_is_found_wherever_it_begins(before: str) -> None:
    told = Redactor().text(f"{before}{SHAPED['jwt']} and")
    assert told in (f"{before}[redacted:jwt] and", "[redacted:jwt] and")


@pytest.mark.parametrize("kind", sorted({shape.kind for shape in SHAPES}))
def test_no_text_of_an_agent_holds_up_the_service(kind: str) -> None:
    """Made of what a pattern looks for, over and over. By the square of its length it
    would take minutes; and no thread of a process goes on while a pattern is at work, so it is another process here."""
    program = (
        "import sys\n"
        "from overnight.domain.redaction import SHAPES, Redactor\n"
        "redactor, hints = Redactor(), [h for s in SHAPES if s.kind == sys.argv[1] for h in s.hints]\n"
        "for hint in hints:\n"
        "    for part in (hint, hint.strip('.'), hint + 'a', 'a' + hint + ':', hint + 'a1='):\n"
        "        redactor.text(part * (300_000 // len(part)) + ' '.join(['', *hints]))\n"
    )
    subprocess.run([sys.executable, "-c", program, kind], check=True, timeout=60)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: required for every call",
        "see https://example.com:8080/path and mailto:me@example.com",
        "the prefix sk-ant- and the prefix whsec_ are documented; ghp_short is none",
        "AKIA is four letters; eyJ begins base64 of an object",
        "http://[::1]:8080/a@b",
    ],
)
def test_words_about_secrets_are_no_secrets(text: str) -> None:
    assert Redactor({"key": KEY}).text(text) is text


@pytest.mark.parametrize("before", ["", "x", "-", "eyJ", "eyJ_eyJ", "a.eyJ", "eyJhbGciOi."])
def test_a_jwt_is_found_whatever_it_is_glued_to(before: str) -> None:
    assert SHAPED["jwt"] not in Redactor().text(before + SHAPED["jwt"])


@pytest.mark.parametrize(
    "text", [".eyJ" + "eyJ" * 350_000, "eyJ" * 350_000 + ".eyJ", "eyJaaaaaaaa.eyJ-" * 60_000]
)
def test_no_text_takes_for_ever(text: str) -> None:
    """Agents write these. Where each beginning of a token is tried to its end, one takes an hour."""
    assert len(Redactor().text(text)) <= len(text)


@pytest.mark.parametrize(("kind", "value"), SHAPED.items())
def test_known_shapes_are_blanked_unless_it_is_switched_off(kind: str, value: str) -> None:
    assert Redactor().text(f"it is {value}, you see") == f"it is [redacted:{kind}], you see"
    assert Redactor(shapes=False).text(value) is value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Authorization: Bearer abcdefgh1", "Authorization: [redacted:authorization]"),
        ('{"authorization": "Basic dXNlcjpwdw=="}', '{"authorization": "[redacted:authorization]"}'),
        ("x-api-key: 0123456789abcdef", "x-api-key: [redacted:authorization]"),
        ("git clone https://me:pw@example.com/x", "git clone https://[redacted:url_userinfo]@example.com/x"),
    ],
)
def test_what_stands_around_a_secret_is_kept(text: str, told: str) -> None:
    assert Redactor().text(text) == told


def test_a_text_that_was_cut_in_a_secret_holds_no_part_of_it() -> None:
    redactor = Redactor({"key": KEY}, shapes=False)
    for end in range(20, len(KEY)):
        assert redactor.text(f"key={KEY[:end]}\n[cut]") == "key=[redacted:key]\n[cut]"


@pytest.mark.parametrize("shapes", [True, False])
def test_another_token_that_begins_like_a_loaded_one_is_blanked_whole(shapes: bool) -> None:
    """All web tokens of one kind begin alike: with half of it blanked, its shape would not be seen any more."""
    begins = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzdXBhYmFzZSIs"
    redactor = Redactor({"key": f"{begins}InJvIjoiYSJ9.{'c2ln' * 10}"}, shapes=shapes)
    other = f"{begins}InJvIjoiYiJ9.{'b3Ro' * 10}"
    assert redactor.text(f'say "{other}" twice') == 'say "[redacted:key]" twice'


def test_a_private_key_without_its_end_is_blanked_to_the_end() -> None:
    assert Redactor().text("x -----BEGIN PRIVATE KEY-----\nMIIB") == "x [redacted:private_key]"


def test_stand_ins_are_no_secrets() -> None:
    assert Redactor({"key": "rehearsal"}).text("the rehearsal API") == "the rehearsal API"


def test_secrets_are_counted_by_kind() -> None:
    redactor = Redactor({"api_key": KEY})
    assert redactor.count(f"{KEY} {KEY} {SHAPED['jwt']}") == {"api_key": 2, "jwt": 1}
    assert redactor.count("nothing") == {}


data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["plain", KEY, f"<{KEY}>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", KEY]), inner),
    max_leaves=20,
)


@given(data)
def test_nested_data_is_blanked_and_keeps_its_form(value: Any) -> None:
    told = Redactor({"key": KEY}).data(value)
    assert KEY not in json.dumps(told)
    assert json.dumps(told) == json.dumps(value).replace(KEY, "[redacted:key]")


def test_a_redactor_does_not_show_what_it_knows() -> None:
    assert KEY not in repr(Redactor({"key": KEY}))


names = st.sampled_from(
    ["token", "access_token", "api_key", "apikey", "API-Key", "client_secret", "sig", "X-Amz-Signature"]
)
opaque = st.from_regex(r"[A-Za-z0-9_-]{8,30}[0-9][A-Za-z0-9_-]{8,30}[a-z]", fullmatch=True)
query_parts = st.lists(st.from_regex(r"[a-z]{1,8}=[A-Za-z0-9._-]{0,40}", fullmatch=True), max_size=3)


@given(names, opaque, query_parts, st.sampled_from(["", "#top", " and so on", '"', "&page=2"]))
def test_a_secret_in_a_query_is_blanked_and_the_rest_of_the_address_stays(
    name: str, secret: str, before: list[str], rest: str
) -> None:
    start = "https://example.com/path?" + "".join(f"{part}&" for part in before) + f"{name}="
    assert Redactor().text(start + secret + rest) == f"{start}[redacted:url_secret]{rest}"


@given(
    names,
    st.text(string.ascii_letters + string.digits + "-_.~%+", max_size=15)
    | st.text(string.ascii_lowercase + "-", max_size=60)
    | st.text(string.digits, max_size=60),
)
def test_an_ordinary_value_in_a_query_is_no_secret(name: str, value: str) -> None:
    text = f"see https://example.com/path?page=1&{name}={value}"
    assert Redactor().text(text) is text


@given(st.sampled_from(["page", "key", "q", "id", "monkey", "tokens", "sigma"]), opaque)
def test_other_names_in_a_query_are_no_secrets(name: str, value: str) -> None:
    text = f"https://example.com/path?{name}={value}&n=1"
    assert Redactor().text(text) is text


def test_the_query_of_an_address_in_json_is_one_too() -> None:
    text = r"https://example.com/path?page=1\u0026token=abcdefgh12345678"
    assert Redactor().text(text) == r"https://example.com/path?page=1\u0026token=[redacted:url_secret]"


@given(secrets, secrets, words)
def test_what_is_learned_is_blanked_until_something_else_is_learned(
    first: str, second: str, word: str
) -> None:
    redactor = Redactor({"key": KEY}, shapes=False)
    redactor.learn("webhook_secret", [first, second])
    told = redactor.text(f"{first}{word}{KEY}{word}{second}")
    assert not any(secret in told for secret in (first, second, KEY))
    redactor.learn("webhook_secret", [])
    assert redactor.text(KEY) == "[redacted:key]"
    assert redactor.text(f"{word}-learned-before") == f"{word}-learned-before"


@given(st.integers(0, 199), words, words)
def test_one_of_many_learned_secrets_is_found(chosen: int, before: str, after: str) -> None:
    many = [f"{number:03d}-learned-secret-{number * 7919:08d}-with-an-end" for number in range(200)]
    redactor = Redactor({"key": KEY}, shapes=False)
    redactor.learn("webhook_secret", many)
    text = f"{before}{many[chosen]}{after}{KEY[:-3]}"
    assert redactor.text(text) == f"{before}[redacted:webhook_secret]{after}[redacted:key]"
    assert redactor.text(before + after) == before + after
