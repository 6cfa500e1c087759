"""The OpenAPI 3.1 document, made from the route table and the types of bodies and answers."""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from overnight.api.operations import OPERATIONS, Operation, Reply
from overnight.api.parts import Limits
from overnight.api.problems import KINDS, Code, ProblemView
from overnight.api.requests import UUID_PATTERN, ExecuteRequest
from overnight.domain.keys import Scope

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
PROBLEM_MEDIA = "application/problem+json"
EVERYWHERE = (
    Code.HOST_NOT_ALLOWED,
    Code.HEADERS_TOO_LARGE,
    Code.STORAGE_FAILED,
    Code.STORAGE_FULL,
    Code.INTERNAL,
)
"""Problems that any call can answer."""
BY_NEED: Mapping[Scope | None, tuple[Code, ...]] = {
    None: (),
    Scope.READ: (Code.UNAUTHENTICATED, Code.FORBIDDEN),
    Scope.SUBMIT: (Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.RATE_LIMITED),
}
"""Problems that come of what a call needs its caller to be."""
SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `ovn_...` (docs/keys.md)."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
SECURITY: list[Json] = [{"bearer": []}, {"header": []}, {}]
"""The empty one: a service on loopback needs no key until the first is made."""

_UUID: Json = {"type": "string", "format": "uuid", "pattern": UUID_PATTERN}
PATH_SCHEMAS: Mapping[str, Json] = {
    "job_id": _UUID,
    "session_id": _UUID,
    "delivery_id": {"type": "string", "pattern": "^msg_[0-9a-f]{32}$"},
    "path": {"type": "string", "minLength": 1},
}
HEADERS: Mapping[str, Json] = {
    "Idempotency-Key": {
        "description": "Makes it safe to send the same request again.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    },
    "Last-Event-ID": {
        "description": "Of a stream: go on after this event.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
    },
    "If-None-Match": {"description": "The ETag of the archive that you have.", "schema": {"type": "string"}},
    "Range": {
        "description": "One range of bytes; several, or anything else, are answered with the whole.",
        "schema": {"type": "string"},
    },
    "If-Range": {
        "description": "The ETag that came with the bytes that you have: else the whole is sent.",
        "schema": {"type": "string"},
    },
}
REPLY_HEADERS: Mapping[str, str] = {
    "Location": "Where what was made can be seen.",
    "Idempotent-Replayed": "`true`: the key was known, and this is the first answer again.",
    "ETag": "The SHA-256 of the zip.",
    "Accept-Ranges": "`bytes`: a part can be asked for.",
    "Content-Range": "Which bytes these are, and of how many.",
}
EXAMPLE = {"prompt": "Write a program that prints the first ten primes, and run it.", "max_turns": 20}

_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")


def document(*, version: str, limits: Limits, operations: Sequence[Operation] = OPERATIONS) -> Json:
    paths: dict[str, Json] = defaultdict(dict)
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths[path][operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "overnight",
            "version": version,
            "description": "Runs Claude Code in the background. Every answer carries X-Request-Id; every "
            "refusal is a problem (RFC 9457) with a `code` that stays the same.",
        },
        "paths": dict(paths),
        "components": {"schemas": _schemas(limits, operations), "securitySchemes": SECURITY_SCHEMES},
    }


def _operation(operation: Operation) -> Json:
    summary, _, rest = (inspect.getdoc(operation.call) or "").partition("\n")
    parameters = [*_path_parameters(operation.path), *_query(operation.query), *_headers(operation.headers)]
    described: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": summary.rstrip("."),
        "description": rest.strip(),
        "parameters": parameters,
        "responses": _responses(operation),
        "security": [] if operation.needs is None else SECURITY,
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _body(operation.body)}
    return described


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS[name]}
        for name in _PARAMETER.findall(path)
    ]


def _query(form: type[Struct] | None) -> list[Json]:
    if form is None:
        return []
    (_,), components = msgspec.json.schema_components([form], ref_template=REF)
    fields = components[form.__name__]["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description", ""),
            "schema": _without_null(schema),
        }
        for name, schema in fields.items()
    ]


def _without_null(schema: Json) -> Json:
    """A query has no null: what is optional there is left out."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _headers(names: Iterable[str]) -> list[Json]:
    return [{"name": name, "in": "header", "required": False, **HEADERS[name]} for name in names]


def _body(body: type[Struct] | str) -> Json:
    if isinstance(body, str):
        return {body: {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": _reference(body), "example": EXAMPLE}}


def _responses(operation: Operation) -> Json:
    answered: Json = {str(status): _reply(reply) for status, reply in operation.replies.items()}
    by_status: dict[int, list[Code]] = defaultdict(list)
    for code in (*BY_NEED[operation.needs], *operation.problems, *EVERYWHERE):
        by_status[KINDS[code].status].append(code)
    for status, codes in sorted(by_status.items()):
        told = answered.setdefault(str(status), {"description": "", "content": {}})
        words = " or ".join(f"`{code}`" for code in codes)
        told["description"] = f"{told['description']} {words}".strip()
        told["content"][PROBLEM_MEDIA] = {"schema": _reference(ProblemView)}
    return answered


def _reply(reply: Reply) -> Json:
    content: Json = {} if reply.view is None else {"application/json": {"schema": _reference(reply.view)}}
    content |= {media: {"schema": {"type": "string"}} for media in reply.media}
    described: Json = {"description": reply.meaning, "content": content}
    if reply.headers:
        described["headers"] = {
            name: {"description": REPLY_HEADERS[name], "schema": {"type": "string"}} for name in reply.headers
        }
    return described


def _reference(view: type[Struct]) -> Json:
    return {"$ref": REF.format(name=view.__name__)}


def _schemas(limits: Limits, operations: Sequence[Operation]) -> Json:
    views = {
        reply.view
        for operation in operations
        for reply in operation.replies.values()
        if reply.view is not None
    }
    bodies = {operation.body for operation in operations if isinstance(operation.body, type)}
    queries = {operation.query for operation in operations if operation.query is not None}
    types = sorted(views | bodies | queries | {ProblemView}, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    seconds = components[ExecuteRequest.__name__]["properties"]["timeout_seconds"]
    for choice in seconds["anyOf"]:
        if choice["type"] != "null":
            choice["maximum"] = limits.max_timeout_seconds
    for query in queries:
        del components[query.__name__]
    return dict(sorted(components.items()))
