"""What holds for every answer, and the calls about the service itself."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis

from overnight.api import Readiness
from overnight.api.operations import OPERATIONS
from overnight.api.problems import KINDS, Code
from overnight.api.views import JobView

HTTP_PAGE = Path(__file__).parents[2] / "docs" / "http.md"


class TestEveryAnswer:
    @pytest.mark.parametrize("path", ["/healthz", "/docs", "/nothing", "/jobs?limit=x", "/metrics"])
    async def test_it_has_a_number_of_our_own_and_is_safe_in_a_browser(self, client: Any, path: str) -> None:
        answers = [await client.get(path, headers={"X-Request-Id": "mine"}) for _ in range(2)]
        assert len({answer.headers["x-request-id"] for answer in answers} - {"mine"}) == 2
        for name, value in {
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
        }.items():
            assert answers[0].headers[name] == value
        policy = answers[0].headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy

    async def test_no_other_origin_may_read_it(self, client: Any) -> None:
        answer = await client.options("/execute", headers={"Origin": "https://evil.example"})
        assert answer.status_code == 405
        answer = await client.get("/jobs", headers={"Origin": "https://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_a_problem_says_what_happened_and_where_to_read_more(self, client: Any) -> None:
        answer = await client.get("/jobs?limit=x")
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(problem) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
        assert problem["request_id"] == answer.headers["x-request-id"]
        page, _, anchor = problem["type"].partition("#")
        assert f'id="{anchor}"' in (await client.get(page)).text

    async def test_a_wrong_method_says_which_are_right(self, client: Any) -> None:
        answer = await client.post("/sessions")
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD"

    async def test_head_is_get_without_a_body(self, client: Any) -> None:
        for path in ("/healthz", "/docs", "/openapi.json", "/jobs", "/nothing"):
            head, got = await client.head(path), await client.get(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["content-length"] == str(len(got.content))

    async def test_a_fault_of_ours_is_logged_and_not_shown(
        self, service_with: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken:
            async def counts(self) -> None:
                raise ZeroDivisionError("inner secret")

        service = service_with(index=Broken())
        async with service.client() as client:
            answer = await client.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "inner secret" not in answer.text
        assert answer.json()["request_id"] in caplog.text
        assert "ZeroDivisionError" in caplog.text


class TestHost:
    @pytest.mark.parametrize("host", ["overnight.test", "OVERNIGHT.test:8080", "127.0.0.1:1"])
    async def test_its_own_names_are_answered(self, client: Any, host: str) -> None:
        assert (await client.get("/healthz", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "overnight.test.evil.example", "", "[::1]", "evil:80:80"]
    )
    async def test_others_are_not(self, client: Any, host: str) -> None:
        answer = await client.get("/healthz", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed")
        assert "evil" not in answer.text

    async def test_ipv6_in_brackets_and_all(self, service_with: Callable[..., Any]) -> None:
        for allowed, host in (("[::1]", "[::1]:8080"), ("[::1]", "[::1]"), ("*", "anything")):
            async with service_with(allowed_hosts=(allowed,)).client() as client:
                assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


class TestService:
    async def test_health(self, client: Any) -> None:
        assert (await client.get("/healthz")).json() == {
            "status": "ok",
            "service": "overnight",
            "version": "1.2.3",
        }

    async def test_readiness(self, service: Any, client: Any) -> None:
        assert (await client.get("/readyz")).status_code == 200
        service.readiness.append(
            Readiness(ok=False, draining=True, isolation="none", reasons=("no bubblewrap",))
        )
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {
            "ready": False,
            "draining": True,
            "isolation": "none",
            "isolation_properties": {},
            "reasons": ["no bubblewrap"],
        }

    async def test_metrics(self, client: Any) -> None:
        await client.post("/execute", json={"prompt": "p"})
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'overnight_open_jobs{status="queued"} 1' in answer.text
        assert 'overnight_build_info{version="1.2.3"} 1' in answer.text

    async def test_the_front_door_leads_to_the_reference(self, client: Any) -> None:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


class TestReference:
    async def test_the_document_is_openapi_3_1_and_has_every_call(self, client: Any) -> None:
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        described = {
            operation["operationId"] for path in document["paths"].values() for operation in path.values()
        }
        assert described == {operation.id for operation in OPERATIONS}
        seconds = document["components"]["schemas"]["ExecuteRequest"]["properties"]["timeout_seconds"]
        assert seconds["anyOf"][0]["maximum"] == 1500.0
        schemathesis.openapi.from_dict(document).validate()

    async def test_the_page_shows_every_call_and_loads_nothing_from_elsewhere(self, client: Any) -> None:
        page = (await client.get("/docs")).text
        for operation in OPERATIONS:
            assert f'id="{operation.id}"' in page
        assert "<script" not in page
        assert "style=" not in page
        assert "http://" not in page
        assert "https://" not in page
        assert (await client.get("/docs/style.css")).headers["content-type"].startswith("text/css")

    def test_every_problem_is_explained_with_its_status(self) -> None:
        page = HTTP_PAGE.read_text()
        assert set(KINDS) == set(Code)
        for code, kind in KINDS.items():
            assert f"| {kind.status} | `{code}` |" in page, code

    def test_the_example_of_a_job_has_the_fields_of_a_job(self) -> None:
        [example] = re.findall(r"```json\n(\{\n.*?\n\})\n```", HTTP_PAGE.read_text(), re.DOTALL)
        assert list(json.loads(example)) == [field.encode_name for field in msgspec.structs.fields(JobView)]

    def test_every_call_is_in_the_handbook(self) -> None:
        page = HTTP_PAGE.read_text()
        for operation in OPERATIONS:
            assert f"`{operation.method} {operation.path.replace(':path', '')}" in page, operation.id
