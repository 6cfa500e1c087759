"""The shapes of Anthropic's Messages API: messages, server-sent events, errors, headers."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from overnight.rehearsal.conversation import Message
from overnight.rehearsal.directives import ApiError
from overnight.rehearsal.script import Reply

MODELS = {
    "claude-opus-5-5": "Claude Opus 5.5",
    "claude-sonnet-5-5": "Claude Sonnet 5.5",
    "claude-haiku-5-5": "Claude Haiku 5.5",
}

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class CountTokensRequest(msgspec.Struct):
    """Only what the script needs; the client may send any more."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    max_tokens: int
    stream: bool = False


def message_of(reply: Reply, model: str, message_id: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in reply.texts]
    if reply.tool_use:
        use = reply.tool_use
        content.append({"type": "tool_use", "id": use.id, "name": use.name, "input": use.input})
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if reply.tool_use else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": reply.usage.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": reply.usage.output_tokens,
        },
    }


def json_bytes(value: object) -> bytes:
    # ASCII only: a lone surrogate in a script then still makes a valid body.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def stream_of(message: Mapping[str, Any]) -> list[bytes]:
    """A message as server-sent events, one per item."""
    return [_event(event) for event in stream_events(message)]


def stream_events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    opening: dict[str, Any] = {
        "content": [],
        "stop_reason": None,
        "usage": {**message["usage"], "output_tokens": 1},
    }
    yield {"type": "message_start", "message": {**message, **opening}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block)
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    # What the stream reports here is cumulative: it replaces the numbers of message_start.
    yield {"type": "message_delta", "delta": ending, "usage": message["usage"]}
    yield {"type": "message_stop"}


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    fallback = "api_error" if status >= 500 else "invalid_request_error"  # RFC 9110: server errors
    kind = _ERROR_TYPES.get(status, fallback)
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_headers(error: ApiError, now: float) -> dict[str, str]:
    """`now`: Unix seconds. `reset` makes the headers of a used-up subscription limit."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.reset is not None:
        headers |= _limit_headers(str(round(now) + error.reset))
    return headers


def token_estimate(body: bytes) -> int:
    """Four bytes of the request a token: near enough for a number that nothing is charged by."""
    return max(1, len(body) // 4)


def model_list() -> dict[str, Any]:
    models = [model_entry(model_id) for model_id in MODELS]
    return {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}


def model_entry(model_id: str) -> dict[str, Any]:
    """Any name works as a model here, as any is accepted by the Messages endpoint."""
    name = MODELS.get(model_id, model_id)
    return {"type": "model", "id": model_id, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}


def _block_events(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        empty, deltas = {**block, "text": ""}, _deltas("text_delta", "text", block["text"])
    else:
        empty = {**block, "input": {}}
        deltas = _deltas("input_json_delta", "partial_json", json.dumps(block["input"]))
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _deltas(kind: str, key: str, text: str) -> Iterator[dict[str, str]]:
    """At most 16 pieces, none tiny: enough to see text grow, cheap when an answer is of megabytes."""
    size = max(24, -(-len(text) // 16))
    return ({"type": kind, key: text[at : at + size]} for at in range(0, len(text), size))


def _event(event: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json_bytes(event))


def _limit_headers(reset: str) -> dict[str, str]:
    """Read from the strings of Claude Code 2.1.330, which makes its rate_limit_event from them."""
    prefix = "anthropic-ratelimit-unified"
    return {
        f"{prefix}-status": "rejected",
        f"{prefix}-reset": reset,
        f"{prefix}-representative-claim": "five_hour",
        f"{prefix}-5h-status": "rejected",
        f"{prefix}-5h-reset": reset,
        f"{prefix}-5h-utilization": "1",
    }
