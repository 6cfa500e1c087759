"""Every path with an id, with everything that is none: a 404 of the right kind, and no answer that repeats it."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overnight.api.operations import OPERATIONS

steady = settings(
    deadline=None,
    max_examples=500,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

JOB = "0190a0e0-0000-7000-8000-000000000001"
MISSING = {
    "job_id": "job_not_found",
    "session_id": "session_not_found",
    "delivery_id": "delivery_not_found",
}
# What the router takes for another path; and an upload without a zip, to a session that could be made.
ELSEWHERE = ("not_found", "method_not_allowed", "unsupported_media_type")

spellings = st.sampled_from(
    [
        JOB.upper(),
        JOB.replace("-", ""),
        f"{{{JOB}}}",
        f"urn:uuid:{JOB}",
        f"{JOB}\n",
        f"{JOB}\0",
        f" {JOB}",
        JOB.replace("0", "\uff10"),
        JOB.replace("-", "\u2010"),
        f"{JOB}/..",
        f"../{JOB}",
        f"{JOB}.zip",
        f"{JOB}' or '1'='1",
        f"msg_{'0' * 31}",
        f"MSG_{'0' * 32}",
        f"msg_{'0' * 32}\n",
        "null",
        "undefined",
        "%s%s%n",
        "..",
        "*",
    ]
)
unknown = st.one_of(
    st.uuids().map(str), st.binary(min_size=16, max_size=16).map(lambda raw: f"msg_{raw.hex()}")
)
ids = st.one_of(spellings, unknown, st.text(min_size=1, max_size=60), st.just("a" * 5000))
methods = st.sampled_from(["GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"])
encodings = st.sampled_from(["", "/", "~"])

PATHS = sorted({operation.path for operation in OPERATIONS if "{" in operation.path})


def filled(template: str, value: str) -> tuple[str, str]:
    """The path with the id put in, and what kind of id that is."""
    name = template.partition("{")[2].partition("}")[0]
    return template.replace(f"{{{name}}}", value).replace("{path:path}", "note.txt"), name


@steady
@given(st.sampled_from(PATHS), ids, st.booleans(), encodings, methods)
@example("/status/{job_id}", JOB, False, "", "GET")
@example("/sessions/{session_id}/archive", JOB, False, "", "PUT")
def test_what_is_no_id_of_anything_is_not_found(
    api: Any,
    refusal: Callable[[httpx.Response], dict[str, Any]],
    canary: str,
    template: str,
    value: str,
    planted: bool,
    safe: str,
    method: str,
) -> None:
    encoded = quote(value + canary * planted, safe=safe, errors="surrogatepass").replace(
        ".", "%2E"
    )  # httpx resolves dots
    path, name = filled(template, encoded)

    async def story(client: httpx.AsyncClient) -> None:
        answer = await client.request(method, path)
        if method == "HEAD":
            assert 400 <= answer.status_code < 500
        else:
            assert refusal(answer)["code"] in {MISSING[name], *ELSEWHERE}

    api.run(story)
