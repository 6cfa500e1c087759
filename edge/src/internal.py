"""The ledger for workers: an authenticated and versioned interface that reads and writes documents, and rings."""

import hmac
from urllib.parse import parse_qs

import msgspec
from workers import Response

from front import Edge
from overnight.adapters.cloudflare.documents import Written, batch_order, bell_order, read_order, text
from overnight.adapters.cloudflare.protocol import PROTOCOL, PROTOCOL_HEADER, TEND_HEADER, refusal
from overnight.ports import StorageError

PREFIX = "/internal/ledger/"
MAX_NAME = 200
HEADERS = {PROTOCOL_HEADER: PROTOCOL, "Cache-Control": "no-store"}


async def answer(edge: Edge, request, path: str, query: str, token: str | None) -> Response:
    refused = _refusal(request.headers, token)
    if refused is not None:
        return refused
    if path == f"{PREFIX}hello":
        return Response("", headers={TEND_HEADER: str(edge.tend_seconds), **HEADERS})
    name = parse_qs(query).get("object", [""])[0]
    if request.method != "POST" or not 0 < len(name) <= MAX_NAME:
        return Response("", status=404)
    order = await request.text()
    try:
        match path.removeprefix(PREFIX):
            case "read":
                read_order.decode(order)  # the answer, which may be large, is passed on as it is
                told = await edge.objects.read_text(name, order)
            case "write":
                told = text(Written(await edge.documents.write(name, batch_order.decode(order))))
            case "ring":
                bell = bell_order.decode(order)
                await edge.queue.send(bell.job_id, at=bell.at)
                told = ""
            case _:
                return Response("", status=404)
    except msgspec.DecodeError:
        return Response("", status=400)
    except StorageError:
        return Response("", status=503)
    return Response(told, headers={"Content-Type": "application/json", **HEADERS})


def _refusal(headers, token: str | None) -> Response | None:
    """Without a token nobody gets in. The protocol comes second: a stranger learns nothing of it."""
    given = headers.get("authorization", "").removeprefix("Bearer ")
    if not token or not hmac.compare_digest(given.encode(), token.encode()):
        return Response("", status=401)
    why = refusal(headers.get(PROTOCOL_HEADER))
    return None if why is None else _conflict(why)


def _conflict(why: str) -> Response:
    problem = {"type": "about:blank", "title": "Edge and worker differ", "status": 409, "detail": why}
    body = msgspec.json.encode(problem | {"code": "protocol_mismatch"}).decode()
    return Response(body, status=409, headers={"Content-Type": "application/problem+json", **HEADERS})
