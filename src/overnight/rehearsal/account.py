"""A stand-in for the parts of Cloudflare's API that an edge needs of its account, as the official client reads them.

Queues with their consumers, KV namespaces, the names of a Worker's secrets, and whether a token is alive; with the
pull interface of its queues. Its errors have the codes that others were answered with (`CODES`).
"""

import hmac
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

Json = dict[str, Any]

CODES = {
    "queue not found": (404, 11000),
    "queue name taken": (409, 11009),
    "consumer exists": (400, 11004),
    "namespace not found": (404, 10013),
    "namespace title taken": (400, 10014),
    "Worker not found": (404, 10007),
    "no subdomain": (404, 10007),
}
"""HTTP status and code. Queues and KV: github.com/alchemy-run/distilled-cloudflare, spec/, which asked the service; and
github.com/cloudflare/workers-sdk, issues 5347 (11004) and 13242 (10014), which do not tell the status: 400 is a guess.
Workers: how wrangler 4.164.0 reads the answers. Messages have others (Cloudflare's page "Queues, Error codes")."""

READ, WRITE = "Read", "Write"
ALL_RIGHTS = frozenset(f"{area} {what}" for area in ("Queues", "KV", "Workers") for what in (READ, WRITE))


@dataclass
class StandInAccount:
    """What there is, to be looked at and changed by tests. `rights` are those of its one token."""

    token: str
    rights: frozenset[str] = ALL_RIGHTS
    alive: bool = True
    subdomain: str | None = "example"
    queues: dict[str, str] = field(default_factory=dict)
    """Ids by names."""
    consumers: dict[str, list[Json]] = field(default_factory=dict)
    """By the queue's id."""
    namespaces: dict[str, str] = field(default_factory=dict)
    """Ids by titles."""
    entries: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By the namespace's id: when each key ends."""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the Worker's name."""
    changes: list[str] = field(default_factory=list)
    """Every call that changed something."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_id(self) -> str:
        return f"{next(self.numbers):032x}"


class Denied(Exception):
    """Answered with one of `CODES`."""


Answer = Callable[[StandInAccount, Request, Json], Any]


def account_app(account: StandInAccount, pull: Starlette, *, more: Sequence[Route] = ()) -> Starlette:
    """Opened by `Authorization: Bearer` and the account's token. Any account id is this account's. `pull` is the
    interface of its messages (`pull_queue_app`); `more` is open."""
    base = "/accounts/{account}"
    queue, kv = base + "/queues/{queue}", base + "/storage/kv/namespaces"
    script = base + "/workers/scripts/{script}"
    calls: list[tuple[str, str, str, Answer]] = [
        ("GET", "/user/tokens/verify", "", _verify),
        ("GET", base + "/tokens/verify", "", _verify),
        ("GET", base + "/queues", "Queues Read", _queues),
        ("POST", base + "/queues", "Queues Write", _make_queue),
        ("GET", queue, "Queues Read", _queue),
        ("GET", queue + "/consumers", "Queues Read", _consumers),
        ("POST", queue + "/consumers", "Queues Write", _make_consumer),
        ("PUT", queue + "/consumers/{consumer}", "Queues Write", _update_consumer),
        ("GET", kv, "KV Read", _namespaces),
        ("POST", kv, "KV Write", _make_namespace),
        ("GET", kv + "/{namespace}/keys", "KV Read", _keys),
        ("GET", script + "/secrets", "Workers Read", _secrets),
        ("GET", base + "/workers/subdomain", "Workers Read", _subdomain),
    ]
    routes: list[Route | Mount] = [
        Route(path, _guarded(account, right, partial(_call, account, answer)), methods=[method])
        for method, path, right, answer in calls
    ]
    return Starlette(routes=[*more, *routes, Mount("/", _only_writers(account, pull))])


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(account: StandInAccount, right: str, endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        if not _known(account, request.headers.get("authorization", "")):
            return _refused(401, 1000, "Invalid API Token")
        if right and right not in account.rights:
            return _refused(403, 10000, "Authentication error")
        return await endpoint(request)

    return guarded


def _known(account: StandInAccount, authorization: str) -> bool:
    given = authorization.removeprefix("Bearer ")
    return account.alive and hmac.compare_digest(given.encode(), account.token.encode())


def _only_writers(account: StandInAccount, pull: Starlette) -> Any:
    """Messages are pushed, pulled and acknowledged with the right to write."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "Queues Write" not in account.rights:
            await _refused(403, 10000, "Authentication error")(scope, receive, send)
        else:
            await pull(scope, receive, send)

    return app


async def _call(account: StandInAccount, answer: Answer, request: Request) -> Response:
    order = await request.json() if request.method != "GET" else {}
    try:
        result = answer(account, request, order)
    except Denied as denied:
        status, code = CODES[str(denied)]
        return _refused(status, code, str(denied))
    if request.method != "GET":
        account.changes.append(f"{request.method} {request.url.path}")
    return JSONResponse({"success": True, "errors": [], "messages": [], "result": result})


def _refused(status: int, code: int, message: str) -> Response:
    errors = [{"code": code, "message": message}]
    return JSONResponse({"success": False, "errors": errors, "messages": [], "result": None}, status)


def _verify(account: StandInAccount, request: Request, order: Json) -> Json:
    return {"id": "f" * 32, "status": "active"}


def _queues(account: StandInAccount, request: Request, order: Json) -> list[Json]:
    wanted = request.query_params.get("name")
    return [_queue_view(account, name) for name in account.queues if wanted in {None, name}]


def _make_queue(account: StandInAccount, request: Request, order: Json) -> Json:
    name = order["queue_name"]
    if name in account.queues:
        raise Denied("queue name taken")
    account.queues[name] = account.new_id()
    return _queue_view(account, name)


def _queue(account: StandInAccount, request: Request, order: Json) -> Json:
    return _queue_view(account, _queue_name(account, request))


def _consumers(account: StandInAccount, request: Request, order: Json) -> list[Json]:
    return account.consumers.get(account.queues[_queue_name(account, request)], [])


def _make_consumer(account: StandInAccount, request: Request, order: Json) -> Json:
    queue = account.queues[_queue_name(account, request)]
    if account.consumers.get(queue):
        raise Denied("consumer exists")
    account.consumers[queue] = [_consumer(account.new_id(), order)]
    return account.consumers[queue][0]


def _update_consumer(account: StandInAccount, request: Request, order: Json) -> Json:
    """The whole consumer is replaced."""
    kept = account.consumers.get(account.queues[_queue_name(account, request)], [])
    for place, consumer in enumerate(kept):
        if consumer["consumer_id"] == request.path_params["consumer"]:
            kept[place] = _consumer(consumer["consumer_id"], order)
            return kept[place]
    raise Denied("queue not found")


def _consumer(consumer_id: str, order: Json) -> Json:
    """A Worker's has its name a second time: wrangler looks for it as `script`."""
    script = {"script": order["script_name"]} if "script_name" in order else {}
    return {"consumer_id": consumer_id, **order, **script}


def _queue_view(account: StandInAccount, name: str) -> Json:
    queue_id = account.queues[name]
    consumers = account.consumers.get(queue_id, [])
    return {
        "queue_id": queue_id,
        "queue_name": name,
        "consumers": consumers,
        "consumers_total_count": len(consumers),
    }


def _queue_name(account: StandInAccount, request: Request) -> str:
    return _named(account.queues, request.path_params["queue"], "queue not found")


def _namespaces(account: StandInAccount, request: Request, order: Json) -> list[Json]:
    """All of them on the first page."""
    if request.query_params.get("page", "1") != "1":
        return []
    return [{"id": found, "title": title} for title, found in account.namespaces.items()]


def _make_namespace(account: StandInAccount, request: Request, order: Json) -> Json:
    if order["title"] in account.namespaces:
        raise Denied("namespace title taken")
    account.namespaces[order["title"]] = account.new_id()
    return {"id": account.namespaces[order["title"]], "title": order["title"]}


def _keys(account: StandInAccount, request: Request, order: Json) -> list[Json]:
    namespace, prefix = request.path_params["namespace"], request.query_params.get("prefix", "")
    _named(account.namespaces, namespace, "namespace not found")
    found = account.entries.get(namespace, {})
    return [
        {"name": name} | ({} if ends is None else {"expiration": ends})
        for name, ends in found.items()
        if name.startswith(prefix)
    ]


def _secrets(account: StandInAccount, request: Request, order: Json) -> list[Json]:
    if request.path_params["script"] not in account.secrets:
        raise Denied("Worker not found")
    return [{"name": name, "type": "secret_text"} for name in account.secrets[request.path_params["script"]]]


def _subdomain(account: StandInAccount, request: Request, order: Json) -> Json:
    if account.subdomain is None:
        raise Denied("no subdomain")
    return {"subdomain": account.subdomain}


def _named(ids: Mapping[str, str], wanted: str, otherwise: str) -> str:
    for name, found in ids.items():
        if found == wanted:
            return name
    raise Denied(otherwise)
