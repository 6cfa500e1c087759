"""What a caller may send: the body of POST /execute and the queries of the listings."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from overnight.api.parts import ApiParts, Limits
from overnight.api.problems import Code, Fault, Problem, invalid
from overnight.domain.callback_url import CallbackPolicy, parse_callback_url
from overnight.domain.ids import InvalidId, parse_uuid
from overnight.domain.job import JobRequest, Status
from overnight.ports import Idempotency

KIB = 1024
MAX_SCHEMA_BYTES = 64 * KIB
MAX_SCHEMA_DEPTH = 64
UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

# `$` alone would let a newline through at the end. A leading `-` is refused because these reach a command line.
_NO_NEWLINE = r"^(?![\s\S]*\n)"
Model = Annotated[
    str,
    Meta(
        pattern=_NO_NEWLINE + r"[A-Za-z0-9._:@/\[\]][A-Za-z0-9._:@/\[\]-]{0,127}$",
        description="A model's name or alias; the service's default otherwise.",
    ),
]
ToolRule = Annotated[str, Meta(pattern=_NO_NEWLINE + r"[^,\x00-\x1f-][^,\x00-\x1f]{0,199}$")]
ToolRules = Annotated[tuple[ToolRule, ...], Meta(max_length=200)]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]


class ExecuteRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job: a prompt for Claude Code and how to run it. Only `prompt` is needed."""

    prompt: Annotated[
        str,
        Meta(
            min_length=1, pattern=r"\S", description="What Claude Code shall do. It is data, not a command."
        ),
    ]
    session_id: (
        Annotated[
            str,
            Meta(
                description="Go on in this session. Left out: a new session.",
                extra_json_schema={"format": "uuid", "pattern": UUID_PATTERN},
            ),
        ]
        | None
    ) = None
    callback_url: (
        Annotated[
            str,
            Meta(
                description="Where the signed webhook of the final status goes.",
                extra_json_schema={"format": "uri", "maxLength": 2048},
            ),
        ]
        | None
    ) = None
    model: Model | None = None
    max_turns: Annotated[int, Meta(ge=1, le=1000, description="Turns of the agent, at most.")] | None = None
    max_budget_usd: Annotated[float, Meta(gt=0, description="US dollars that the run may cost.")] | None = (
        None
    )
    timeout_seconds: (
        Annotated[
            float, Meta(ge=1, description="How long one attempt may run; the service's cap if left out.")
        ]
        | None
    ) = None
    append_system_prompt: Annotated[str, Meta(description="Added to Claude Code's system prompt.")] | None = (
        None
    )
    allowed_tools: Annotated[ToolRules, Meta(description="Tool rules, such as `Bash(git *)`.")] = ()
    disallowed_tools: Annotated[ToolRules, Meta(description="Tools or rules that are taken away.")] = ()
    output_schema: (
        Annotated[
            dict[str, Any],
            Meta(description="A JSON schema (up to 64 KiB, 64 levels) that `structured_output` must fit."),
        ]
        | None
    ) = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Meta(max_length=16, description="Yours: kept with the job, given back in answers and webhooks."),
    ] = {}


class JobsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Annotated[
        tuple[Status, ...], Meta(max_length=20, description="Only these; may be repeated.")
    ] = ()
    session_id: (
        Annotated[
            str,
            Meta(
                description="Only jobs of this session.",
                extra_json_schema={"format": "uuid", "pattern": UUID_PATTERN},
            ),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=200, description="`next_cursor` of the page before.")] | None = (
        None
    )


class SessionsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=200, description="`next_cursor` of the page before.")] | None = (
        None
    )


class EventsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: Annotated[int, Meta(ge=0, le=2**53, description="Only events with a higher number.")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000, description="Of a JSON page; a stream has no limit.")] = 100


execute_decoder = msgspec.json.Decoder(ExecuteRequest)
_canonical = msgspec.json.Encoder(order="sorted")


def job_request(
    body: ExecuteRequest, *, policy: CallbackPolicy, limits: Limits, models: Sequence[str]
) -> JobRequest:
    """The job that is asked for, on one of the key's models if it has any. Raises Problem, CallbackUrlRefused."""
    cap = limits.max_timeout_seconds
    if body.timeout_seconds is not None and body.timeout_seconds > cap:
        raise invalid("/timeout_seconds", f"The service's cap is {cap:g} seconds.")
    if body.output_schema is not None:
        _check_schema(body.output_schema)
    callback_url = body.callback_url
    if callback_url is not None:
        callback_url = parse_callback_url(callback_url, policy=policy).normalised
    return JobRequest(
        prompt=body.prompt,
        callback_url=callback_url,
        model=_allowed_model(body.model, models),
        max_turns=body.max_turns,
        max_budget_usd=body.max_budget_usd,
        timeout_seconds=cap if body.timeout_seconds is None else body.timeout_seconds,
        append_system_prompt=body.append_system_prompt,
        allowed_tools=body.allowed_tools,
        disallowed_tools=body.disallowed_tools,
        output_schema=body.output_schema,
        metadata=body.metadata,
    )


def _allowed_model(model: str | None, models: Sequence[str]) -> str | None:
    """A job that names none must not get the service's default, which the key may not allow."""
    if not models:
        return model
    if model is not None and model not in models:
        raise Problem(Code.MODEL_NOT_ALLOWED)
    return model or models[0]


def named_session(session_id: str | None) -> str | None:
    """A session id from a body or a query. Raises Problem."""
    try:
        return None if session_id is None else parse_uuid(session_id)
    except InvalidId as error:
        raise Problem(Code.INVALID_ID, errors=[Fault("/session_id", f"{error}.")]) from None


def idempotency(request: Request, body: ExecuteRequest, owner: str) -> Idempotency | None:
    """The key, and what it stands for: the body with its names in order and its defaults left out."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    key = keys[0]
    if len(keys) > 1 or not 1 <= len(key) <= 255 or not all("!" <= letter <= "~" for letter in key):
        raise Problem(Code.INVALID_IDEMPOTENCY_KEY)
    fingerprint = hashlib.sha256(_canonical.encode(body)).hexdigest()
    return Idempotency(key=key, fingerprint=fingerprint, owner=owner)


def job_id_of(request: Request) -> str:
    """A malformed id in a path names nothing, so it is answered like an unknown one. Raises Problem."""
    return _path_id(request, "job_id", Code.JOB_NOT_FOUND)


def session_id_of(request: Request) -> str:
    """Raises Problem."""
    return _path_id(request, "session_id", Code.SESSION_NOT_FOUND)


def _path_id(request: Request, name: str, missing: Code) -> str:
    try:
        return parse_uuid(request.path_params[name])
    except InvalidId:
        raise Problem(missing) from None


def refuse_while_draining(parts: ApiParts) -> None:
    if parts.ready().draining:
        raise Problem(Code.DRAINING)


def refuse_without_room(parts: ApiParts) -> None:
    """Before the disk is full: what is accepted must still be run and saved."""
    if parts.spare_bytes() < 0:
        raise Problem(Code.STORAGE_FULL)


def _check_schema(schema: dict[str, Any]) -> None:
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise invalid("/output_schema", f"It is nested deeper than {MAX_SCHEMA_DEPTH} levels.")
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
        raise invalid("/output_schema", f"It is over {MAX_SCHEMA_BYTES} bytes.")


def _depth(value: Any) -> int:
    """Levels of nesting, counted level by level: recursion would be the caller's to exhaust."""
    level, depth = [value], 0
    while level and depth <= MAX_SCHEMA_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return depth
