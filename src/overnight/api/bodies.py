"""Reading what a caller sent: counted while it streams, parsed strictly, and never repeated in an error."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request

from overnight.api.problems import Code, Fault, Problem, invalid

CLOSE = {"Connection": "close"}
"""The rest of a body that is late would be taken for the next request."""

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
T_co = TypeVar("T_co", covariant=True)

_SAFE_MESSAGE = re.compile(
    r"(?P<what>Expected .*?|Object missing required field `\w+`|(?:Number|Integer value) out of range)"
    r"(?: - at `(?:key` in `)?\$(?P<path>.*)`)?",
    re.DOTALL,
)
"""msgspec's messages that hold nothing of the input: those about unknown fields and enum values do."""
MAX_DEPTH = 256
"""Levels of nesting. A parser stops by itself where it runs out of stack, but in WebAssembly (the edge) that is the
end of the process, not an exception."""
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*+"?|(?P<open>[\[{])|(?P<close>[\]}])', re.DOTALL)
"""Strings, which may hold any bracket, and the brackets outside of them."""
_CHARSETS = frozenset({"", "charset=utf-8", 'charset="utf-8"'})
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


class Decoder(Protocol[T_co]):
    def decode(self, buf: bytes, /) -> T_co: ...


def check_body(request: Request, media_type: str) -> None:
    """Refuse another media type, another charset than UTF-8, and any Content-Encoding."""
    headers = dict(request.scope["headers"])  # one pass: this is the hot path
    content_type: bytes = headers.get(b"content-type", b"")
    named, _, parameters = content_type.decode("latin-1").lower().partition(";")
    if named.strip() != media_type or parameters.strip() not in _CHARSETS:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)


def check_length(request: Request, limit: int) -> None:
    """Refuse a body that says it is too large before it is sent."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large(limit)


def too_large(limit: int) -> Problem:
    """The server reads and drops the rest of the body: closing at once could lose the answer on its way."""
    return Problem(
        Code.BODY_TOO_LARGE, f"The body is over this service's limit of {limit} bytes. Nothing was kept."
    )


async def read_json(request: Request, decoder: Decoder[T], *, limit: int, seconds: float) -> T:
    """The whole body has `seconds` to come. Raises Problem."""
    check_body(request, "application/json")
    check_length(request, limit)
    try:
        async with asyncio.timeout(seconds):
            body = b"".join([chunk async for chunk in counted(request, limit=limit, seconds=seconds)])
    except TimeoutError:
        raise Problem(Code.REQUEST_TIMEOUT, headers=CLOSE) from None
    return decode(body, decoder)


async def counted(request: Request, *, limit: int, seconds: float) -> AsyncGenerator[bytes, None]:
    """The body as it comes, each piece within `seconds` of the one before. Raises Problem."""
    size, stream = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Problem(Code.REQUEST_TIMEOUT, headers=CLOSE) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        yield chunk


def decode(body: bytes, decoder: Decoder[T]) -> T:
    """Raises Problem for whatever the body may be."""
    if _nested_too_deeply(body):
        raise Problem(Code.INVALID_JSON)
    try:
        value = decoder.decode(body)
        _strict.decode(body.decode())
    except msgspec.ValidationError as error:
        raise Problem(Code.INVALID_REQUEST, errors=[_fault(str(error))]) from None
    except (ValueError, RecursionError):
        raise Problem(Code.INVALID_JSON) from None
    return value


def _nested_too_deeply(body: bytes) -> bool:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:  # so it is with nearly every body
        return False
    depth = 0
    for found in _NESTING.finditer(body):
        depth += (found["open"] is not None) - (found["close"] is not None)
        if depth > MAX_DEPTH:
            return True
    return False


def _distinct(pairs: Sequence[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in one object")


_strict = json.JSONDecoder(object_pairs_hook=_distinct)
"""msgspec keeps the last of two equal names; a proxy that keeps the first would see another request."""


def _fault(message: str) -> Fault:
    found = _SAFE_MESSAGE.fullmatch(message)
    if found is None:
        unknown = message.startswith("Object contains unknown field")
        return Fault(
            "", "There is a field that is not known." if unknown else "A value is not an accepted one."
        )
    return Fault(_pointer(found["path"] or ""), f"{found['what']}.")


def _pointer(path: str) -> str:
    """msgspec's `.tools[1]` as the JSON pointer `/tools/1`; the keys of a mapping are left out."""
    return "".join(f"/{name or index}" for name, index in _STEP.findall(path))


def read_query(request: Request, form: type[S]) -> S:
    """The query as a Struct: values are taken from their text, lists from repeated names. Raises Problem."""
    lists = {field.name for field in msgspec.structs.fields(form) if isinstance(field.default, tuple)}
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in lists:
            given.setdefault(name, []).append(value)
        elif name in given:
            raise invalid("", "A query parameter is given twice.")
        else:
            given[name] = value
    try:
        return msgspec.convert(given, form, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(Code.INVALID_REQUEST, errors=[_fault(str(error))]) from None
