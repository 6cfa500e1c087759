"""Bodies by grammar: each makes one job or none, and whatever is refused is refused in documented words."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

steady = settings(
    deadline=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

CANARY = "cnry7f3a"
"""The one of conftest.py, which a strategy cannot ask for."""

strings = st.one_of(
    st.just(f'"{CANARY}"'),
    st.just('""'),
    st.just('"   "'),
    st.just(f'"\\ud800{CANARY}"'),
    st.just(f'"\\udc00\\ud800{CANARY}"'),
    st.just('"\\u0000"'),
    st.just(f'"{CANARY}\x01"'),
    st.just(f'"\\x41{CANARY}"'),
    st.just(f"'{CANARY}'"),
    st.just('"0190a0e0-0000-7000-8000-000000000001"'),
    st.just(f'"https://{CANARY}@10.0.0.1/{CANARY}"'),
    st.just(f'"http://[::1]/{CANARY}"'),
    st.just(f'"--{CANARY}"'),
    st.text(max_size=20).map(lambda text: json.dumps(CANARY + text)),
    st.text(max_size=20).map(lambda text: json.dumps(CANARY + text, ensure_ascii=False)),
)
numbers = st.one_of(
    st.sampled_from(
        ["0", "-0", "1", "-1", "1.0", "1e400", "-1e400", "1e-400", "01", "+1", ".5", "1.", "0x1"]
    ),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "9" * 5000, "0." + "9" * 5000, "1e99999999999", "1_000"]
    ),
    st.integers().map(str),
    st.integers(2**53 - 2, 2**64 + 2).map(str),
)
atoms = st.one_of(
    strings,
    numbers,
    st.sampled_from(["true", "false", "null", "True", "undefined", "", "/**/1", f"//{CANARY}"]),
)


def array(items: list[str]) -> str:
    return f"[{','.join(items)}]"


def nested(depth: int, opening: str, closing: str) -> str:
    return opening * depth + "1" + closing * depth


deep = st.builds(
    nested,
    st.sampled_from([1, 63, 64, 65, 500, 1000, 5000]),
    st.sampled_from(["[", '{"a":']),
    st.sampled_from(["]", "}", ""]),
)
fields = st.sampled_from(
    [
        *("prompt", "session_id", "callback_url", "model", "max_turns", "max_budget_usd", "timeout_seconds"),
        *("append_system_prompt", "allowed_tools", "disallowed_tools", "output_schema", "metadata"),
    ]
).map(json.dumps)
keys = st.one_of(
    fields, fields, fields, strings, st.sampled_from(['"__proto__"', '"Prompt"', '"\\u0070rompt"', "prompt"])
)


def mapping(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(keys, values), max_size=5).map(mapping)


values = st.recursive(
    atoms,
    lambda inner: st.one_of(st.lists(inner, max_size=4).map(array), objects(inner)),
    max_leaves=8,
)
schemas = st.one_of(deep, values).map(lambda text: f'{{"properties":{text}}}')
tails = st.lists(st.tuples(keys, st.one_of(values, values, deep, schemas)), max_size=3)
requests = tails.map(lambda pairs: mapping([('"prompt"', f'"{CANARY}"'), *pairs]))
acceptable = st.fixed_dictionaries(
    {"prompt": st.text(min_size=1, max_size=30).map(lambda text: CANARY + text)},
    optional={
        "callback_url": st.sampled_from(["https://hooks.example.com/x", None]),
        "max_turns": st.integers(0, 1001),
        "max_budget_usd": st.floats(allow_nan=False),
        "timeout_seconds": st.floats(0, 1501),
        "allowed_tools": st.lists(st.text(max_size=5), max_size=3),
        "output_schema": st.dictionaries(st.text(max_size=3), st.none() | st.booleans(), max_size=3),
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=17),
    },
).map(json.dumps)
documents = st.one_of(acceptable, acceptable, requests, requests, objects(values), values, deep)

ENCODINGS: list[Callable[[str], bytes]] = [
    *[lambda text: text.encode("utf-8", "surrogatepass")] * 20,
    lambda text: text.encode("utf-8-sig", "surrogatepass"),
    lambda text: text.encode("utf-16", "surrogatepass"),
    lambda text: text.encode("utf-16-le", "surrogatepass"),
    lambda text: text.encode("utf-32", "surrogatepass"),
    lambda text: text.encode("latin-1", "replace") + b"\xff",
    lambda text: text.encode("utf-7", "replace"),
    lambda text: text.encode("utf-8", "surrogatepass")[:-1],
    lambda text: text.encode("utf-8", "surrogatepass") * 2,
    lambda text: b" \n\t" + text.encode("utf-8", "surrogatepass") + b"\0",
    lambda text: b"",
]
bodies = st.builds(lambda text, encode: encode(text), documents, st.sampled_from(ENCODINGS))

good_types = st.sampled_from(["application/json", "application/json; charset=utf-8", "Application/JSON"])
odd_types = st.sampled_from(
    [
        *("", "text/plain", "application/json; charset=utf-16", "application/x-www-form-urlencoded"),
        *(
            f"application/json; {CANARY}",
            f"multipart/form-data; boundary={CANARY}",
            "application/json, text/html",
        ),
        *("application/jsonx", "application/json;charset=utf-8;charset=utf-16", "application/problem+json"),
    ]
)
header_values = st.one_of(
    st.sampled_from(
        [b"", b" ", b"a b", b"x" * 255, b"x" * 256, b"k\x7f", b"\xff\xfe", CANARY.encode(), b'"q"']
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30).map(
        lambda t: t.encode("latin-1")
    ),
)
idempotency_keys = st.lists(header_values.map(lambda value: (b"idempotency-key", value)), max_size=2)
encodings = st.sampled_from(
    [[], [], [], [], [(b"content-encoding", b"gzip")], [(b"content-encoding", b"identity")]]
)
types = st.one_of(good_types, good_types, good_types, odd_types).map(
    lambda value: [(b"content-type", value.encode())]
)
plain = st.just([(b"content-type", b"application/json")])
odd_headers = st.builds(
    lambda *parts: [pair for part in parts for pair in part], types, idempotency_keys, encodings
)

headers = st.one_of(plain, plain, odd_headers)


@steady
@given(bodies, headers)
@example(b'{"prompt":"x"}', [(b"content-type", b"application/json")])
@example(b'{"prompt":"x","max_turns":' + b"9" * 5000 + b"}", [(b"content-type", b"application/json")])
def test_a_body_makes_one_job_or_a_documented_refusal(
    api: Any,
    refusal: Callable[[httpx.Response], dict[str, Any]],
    body: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        answer = await client.post("/execute", content=body, headers=headers)
        if answer.status_code == 202:
            assert await api.left() == (1, 1)
            job = answer.json()
            assert (await client.post(f"/jobs/{job['job_id']}/cancel")).status_code == 200
            assert (await client.delete(f"/sessions/{job['session_id']}")).status_code == 204
        else:
            refusal(answer)
        assert await api.left() == (0, 0)

    api.run(story)
