"""schemathesis over the whole document: requests that fit and that do not, against what it promises."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from overnight.api.openapi import document
from overnight.api.operations import OPERATIONS

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


TAKES_NOTHING = {"healthz", "readyz", "metrics"}
CASES = [
    (operation.id, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or operation.id not in TAKES_NOTHING
]

schemathesis.serializer("application/zip")(
    lambda _, value: value if isinstance(value, bytes) else str(value).encode()
)


def known_ids(service: Any) -> dict[str, str]:
    """Ids of a job that has run, so that not every answer is a 404."""

    async def make() -> dict[str, str]:
        async with service.client() as client:
            body = {"prompt": "p", "callback_url": "https://example.com/"}
            job = (await client.post("/execute", json=body)).json()
            await service.run(job["job_id"], files={"a.txt": b"a"})
            (delivery,) = (await client.get(f"/jobs/{job['job_id']}/deliveries")).json()["data"]
        return {
            "job_id": job["job_id"],
            "session_id": job["session_id"],
            "delivery_id": delivery["id"],
            "path": "a.txt",
        }

    return asyncio.run(make())


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_answers_are_as_the_document_says(
    service_with: Callable[..., Any], name: str, mode: GenerationMode
) -> None:
    service = service_with(allowed_hosts=("*",))
    known = known_ids(service)
    schema = schemathesis.openapi.from_dict(
        document(version=service.parts.version, limits=service.parts.limits)
    )
    schema.app = service.app
    operation = schema.find_operation_by_id(name)

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), use_known=st.booleans())
    def check(case: Any, use_known: bool) -> None:
        if use_known:
            case.path_parameters = {key: known[key] for key in case.path_parameters or {} if key in known}
        case.call_and_validate(checks=CHECKS)

    check()
