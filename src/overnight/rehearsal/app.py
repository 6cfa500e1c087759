"""The rehearsal API: answers like Anthropic's Messages API, by script and without a model.

`docs/rehearsal.md` is its manual.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from overnight.rehearsal import wire
from overnight.rehearsal.directives import ApiError
from overnight.rehearsal.script import reply_to
from overnight.rehearsal.staging import FaultCounts, Pauses, StagedResponse, Staging, stage

# The limit of the real Messages API.
LARGEST_BODY = 32 * 1024 * 1024

_EVENTS = "text/event-stream"
_JSON = "application/json"

_Body = TypeVar("_Body", bound=wire.CountTokensRequest)


def rehearsal_app(
    *, new_id: Callable[[], str], now: Callable[[], float], pauses: Pauses | None = None
) -> Starlette:
    """`new_id` makes unique letters and digits, `now` is Unix seconds; closing `pauses` ends those under way."""
    api = _MessagesApi(new_id, now, FaultCounts(), pauses or Pauses())
    routes = [
        Route("/", api.front),
        Route("/v1/messages", api.messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", api.count_tokens, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{model_id}", api.model),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: api.refusal, Exception: api.failure})


@dataclass(frozen=True, slots=True)
class _MessagesApi:
    new_id: Callable[[], str]
    now: Callable[[], float]
    counts: FaultCounts
    pauses: Pauses

    async def front(self, _: Request) -> Response:
        return PlainTextResponse("overnight rehearsal: a scripted stand-in for the Messages API\n")

    async def messages(self, request: Request) -> Response:
        _authenticate(request)
        body = _decode(await _read(request), wire.MessagesRequest)
        reply = reply_to(body.system, body.messages, self.new_id())
        staging = stage(reply, request.headers.get("x-claude-code-session-id", ""), self.counts)
        if staging.error:
            return self._scripted_error(staging.error, staging)
        message = wire.message_of(reply, body.model, f"msg_rehearsal_{self.new_id()}")
        headers = {"request-id": self._request_id()}
        if body.stream:
            events = wire.stream_of(message)
            return StagedResponse(events, staging, self.pauses, media_type=_EVENTS, headers=headers)
        halves = _halves(wire.json_bytes(message))
        return StagedResponse(halves, staging, self.pauses, media_type=_JSON, headers=headers)

    async def count_tokens(self, request: Request) -> Response:
        _authenticate(request)
        raw = await _read(request)
        _decode(raw, wire.CountTokensRequest)
        return JSONResponse({"input_tokens": wire.token_estimate(raw)})

    async def models(self, request: Request) -> Response:
        _authenticate(request)
        return JSONResponse(wire.model_list())

    async def model(self, request: Request) -> Response:
        _authenticate(request)
        return JSONResponse(wire.model_entry(request.path_params["model_id"]))

    async def refusal(self, _: Request, refused: Exception) -> Response:
        assert isinstance(refused, HTTPException)
        return self._error(refused.status_code, refused.detail)

    async def failure(self, _: Request, __: Exception) -> Response:
        return self._error(500, "The rehearsal API itself failed: this is a bug in overnight.")

    def _scripted_error(self, error: ApiError, staging: Staging) -> Response:
        request_id = self._request_id()
        text = f"Rehearsal: the script asked for status {error.status}."
        halves = _halves(wire.json_bytes(wire.error_body(error.status, text, request_id)))
        headers = {"request-id": request_id, **wire.error_headers(error, self.now())}
        return StagedResponse(
            halves, staging, self.pauses, media_type=_JSON, headers=headers, status_code=error.status
        )

    def _error(self, status: int, text: str) -> Response:
        request_id = self._request_id()
        body = wire.error_body(status, text, request_id)
        return JSONResponse(body, status, headers={"request-id": request_id})

    def _request_id(self) -> str:
        return f"req_rehearsal_{self.new_id()}"


def _authenticate(request: Request) -> None:
    """Any key will do, but there has to be one: a client without it would fail against the real API."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    if not (request.headers.get("x-api-key") or bearer):
        raise HTTPException(401, "x-api-key header is required (the rehearsal accepts any value)")


async def _read(request: Request) -> bytes:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST_BODY:
            raise HTTPException(413, "Request exceeds the maximum size")
    return bytes(raw)


def _decode(raw: bytes, shape: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.DecodeError as problem:
        raise HTTPException(400, str(problem)) from problem


def _halves(body: bytes) -> list[bytes]:
    middle = len(body) // 2
    return [body[:middle], body[middle:]]
