"""A stand-in for the pull interface of Cloudflare's queues, as the official client speaks it (facts: cloudflare 3).

It keeps what was documented: leases that end, attempts that count pulls, late acks that still delete, bodies in
base64, dead letters. `POST /bridge/{queue}` takes the messages of a local queue, which offers no pull itself, and
`GET /bridge/{queue}/dead` gives the dead letters back.
"""

import base64
import hmac
import json
import math
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

DEFAULT_VISIBILITY_MS = 30_000
QUEUE = "/accounts/{account}/queues/{queue}"

Json = dict[str, Any]
Now = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A message. While `lease` is set, it is hidden until `visible_at` because somebody has it."""

    id: str
    body: str
    content_type: str
    sent_at: float
    visible_at: float
    attempts: int = 0
    lease: str | None = None


@dataclass
class PullQueue:
    now: Now
    max_retries: int
    messages: dict[str, Held] = field(default_factory=dict)
    dead: list[Held] = field(default_factory=list)

    def push(self, body: object, content_type: str, delay: float) -> None:
        """JSON is given to consumers in base64, text as it is."""
        told = body if isinstance(body, str) and content_type == "text" else _base64(json.dumps(body))
        made = Held(
            id=secrets.token_hex(16),
            body=told,
            content_type=content_type,
            sent_at=self.now(),
            visible_at=self.now() + delay,
        )
        self.messages[made.id] = made

    def pull(self, limit: int, visibility_ms: float) -> Sequence[Held]:
        now = self.now()
        due = sorted(
            (held for held in self.messages.values() if held.visible_at <= now),
            key=lambda held: held.visible_at,
        )
        taken = [self._lease(held, now + visibility_ms / 1000) for held in due[:limit]]
        return [held for held in taken if held is not None]

    def ack(self, lease: str) -> bool:
        """Also of a lease that has ended: the message goes, whoever holds it now."""
        held = self._of(lease)
        return held is not None and self.messages.pop(held.id, None) is not None

    def retry(self, lease: str, delay: float) -> bool:
        held = self._of(lease)
        if held is None or held.lease != lease:
            return False
        self.messages[held.id] = replace(held, lease=None, visible_at=self.now() + delay)
        return True

    def _lease(self, held: Held, until: float) -> Held | None:
        if held.attempts > self.max_retries:
            self.dead.append(self.messages.pop(held.id))
            return None
        lease = f"{held.id}.{secrets.token_hex(8)}"
        taken = replace(held, attempts=held.attempts + 1, lease=lease, visible_at=until)
        self.messages[held.id] = taken
        return taken

    def _of(self, lease: str) -> Held | None:
        return self.messages.get(lease.partition(".")[0])


def pull_queue_app(token: str, now: Now, *, max_retries: int) -> Starlette:
    """Opened by `Authorization: Bearer token`, the bridge too. Every queue is there as soon as it is named. After so
    many pulls and one more a message is a dead letter."""
    queues: defaultdict[str, PullQueue] = defaultdict(lambda: PullQueue(now, max_retries))
    calls: Mapping[str, Callable[[PullQueue, Json], Json]] = {
        "messages": _push,
        "messages/batch": _push_all,
        "messages/pull": _pull,
        "messages/ack": _ack,
    }
    routes = [
        Route(f"{QUEUE}/{path}", _guarded(token, partial(_call, queues, call)), methods=["POST"])
        for path, call in calls.items()
    ]
    routes.append(
        Route("/bridge/{queue}", _guarded(token, partial(_call, queues, _push_all)), methods=["POST"])
    )
    routes.append(Route("/bridge/{queue}/dead", _guarded(token, partial(_call, queues, _dead))))
    routes.append(Route(f"{QUEUE}/metrics", _guarded(token, partial(_call, queues, _metrics))))
    return Starlette(routes=routes)


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(token: str, endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), token.encode()):
            return await endpoint(request)
        refused = {"code": 10000, "message": "Authentication error"}
        return JSONResponse({"success": False, "errors": [refused], "messages": [], "result": None}, 401)

    return guarded


async def _call(
    queues: Mapping[str, PullQueue], call: Callable[[PullQueue, Json], Json], request: Request
) -> Response:
    order = await request.json() if request.method == "POST" else {}
    result = call(queues[request.path_params["queue"]], order)
    return JSONResponse({"success": True, "errors": [], "messages": [], "result": result})


def _push(queue: PullQueue, order: Json) -> Json:
    queue.push(order["body"], order.get("content_type", "json"), order.get("delay_seconds", 0))
    return {}


def _push_all(queue: PullQueue, order: Json) -> Json:
    for message in order["messages"]:
        _push(queue, {"delay_seconds": order.get("delay_seconds", 0), **message})
    return {}


def _pull(queue: PullQueue, order: Json) -> Json:
    visibility = order.get("visibility_timeout_ms", DEFAULT_VISIBILITY_MS)
    taken = queue.pull(int(order.get("batch_size", 5)), visibility)
    return {"messages": [_told(held) for held in taken], "message_backlog_count": len(queue.messages)}


def _ack(queue: PullQueue, order: Json) -> Json:
    acked = [queue.ack(each["lease_id"]) for each in order.get("acks", [])]
    retried = [
        queue.retry(each["lease_id"], math.ceil(each.get("delay_seconds", 0)))
        for each in order.get("retries", [])
    ]
    return {"ackCount": sum(acked), "retryCount": sum(retried), "warnings": {}}


def _dead(queue: PullQueue, _: Json) -> Json:
    """Each dead letter is given away once."""
    dead, queue.dead = queue.dead, []
    return {"messages": [_told(held) for held in dead]}


def _metrics(queue: PullQueue, _: Json) -> Json:
    oldest = min((held.sent_at for held in queue.messages.values()), default=0.0)
    size = sum(len(held.body) for held in queue.messages.values())
    return {
        "backlog_count": len(queue.messages),
        "backlog_bytes": size,
        "oldest_message_timestamp_ms": oldest * 1000,
    }


def _told(held: Held) -> Json:
    return {
        "id": held.id,
        "body": held.body,
        "attempts": held.attempts,
        "timestamp_ms": held.sent_at * 1000,
        "lease_id": held.lease,
        "metadata": {"CF-Content-Type": held.content_type},
    }


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
