"""A stand-in of Supabase Storage that speaks the protocol as it was measured, with its faults on command."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.supabase_server import tus
from tests.supabase_server.bucket import (
    EXPIRED,
    Answer,
    Object,
    Plain,
    Project,
    denied,
    missing,
    stamp,
    taken,
    too_large,
)

from overnight.serving import listen, serving, url_of

KEY = re.compile(r"[\w/!\-.*'() &$@=;:+,?]+", re.ASCII)
BLOCK = 256 * 1024
CACHE_SECONDS = 60.0

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Hold:
    """The first request of the method to a path with `path` in it waits until `released`.

    `inside`: in the middle of its body, after what comes first of it, and not before its handling.
    """

    method: str
    path: str
    inside: bool = False
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, request: Request, *, inside: bool) -> None:
        fits = self.method == request.method and self.path in request.url.path and self.inside == inside
        if fits and not self.reached.is_set():
            self.reached.set()
            await self.released.wait()


@dataclass
class Faults:
    """`queued`: (method, part of the path, error), each of which is answered once to the first that fits.

    `mute`: operations that pretend to have worked. `cached`: reads are answered for a minute as before.
    """

    queued: list[tuple[str, str, Exception]] = field(default_factory=list)
    mute: set[str] = field(default_factory=set)
    cached: bool = False
    lose_answers: list[tuple[str, str]] = field(default_factory=list)
    held: list[Hold] = field(default_factory=list)

    async def hold(self, request: Request, *, inside: bool) -> None:
        for hold in self.held:
            await hold.wait(request, inside=inside)

    def take(self, method: str, path: str) -> None:
        for fault in self.queued:
            if fault[0] == method and fault[1] in path:
                self.queued.remove(fault)
                raise fault[2]

    def loses(self, method: str, path: str) -> bool:
        for lost in self.lose_answers:
            if lost[0] == method and lost[1] in path:
                self.lose_answers.remove(lost)
                return True
        return False


@dataclass
class Server:
    url: str
    project: Project
    faults: Faults
    requests: list[tuple[str, str]] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    """Bytes of every upload's body that came in."""
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, upload: int, size: int) -> None:
        self.received[upload] += size
        self._came.set()

    async def until_received(self, size: int) -> None:
        """Return when so many bytes of all uploads have come in. For one waiter at a time."""
        while sum(self.received) < size:
            self._came.clear()
            await self._came.wait()


class _Storage:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.project = server.project
        self._cache: dict[str, tuple[float, Object]] = {}

    def key(self, request: Request) -> str | None:
        """A new key is no token: a bearer header must be the same (facts: supabase 6)."""
        given, bearer = request.headers.get("apikey"), request.headers.get("authorization")
        if given and given.startswith("sb_"):
            if given not in self.project.rights or bearer not in {None, f"Bearer {given}"}:
                raise Plain(401, '{"message":"Invalid API key"}')
            return given
        token = (bearer or "").removeprefix("Bearer ")
        return token or None

    def allow(self, request: Request, name: str, *operations: str) -> None:
        key = self.key(request)
        if key == EXPIRED or key not in self.project.rights:
            raise Answer(403, "AccessDenied", "Unauthorized", "jwt expired")
        if not self.project.may(key, name, *operations):
            raise denied()

    def bucket(self, request: Request, name: str) -> None:
        if name != self.project.bucket:
            raise Answer(404, "NoSuchBucket", "Bucket not found", "Bucket not found")

    async def create(self, request: Request) -> Response:
        name, project = request.path_params["name"], self.project
        self.bucket(request, request.path_params["bucket"])
        upsert = request.headers.get("x-upsert") == "true"
        self.allow(request, name, "insert", *(("select", "update") if upsert else ()))
        if not KEY.fullmatch(name):
            raise Answer(400, "InvalidKey", "InvalidKey", f"Invalid key: {name}")
        if name in project.objects and not upsert:
            raise taken()
        self.mime(request.headers.get("content-type", "text/plain"))
        length = request.headers.get("content-length")
        if length is not None and int(length) > project.limit():
            raise too_large()
        path = project.new_file()
        with path.open("wb") as file:
            await self.body(request, file.write)
        told = request.headers.get("x-metadata")
        metadata = json.loads(base64.b64decode(told)) if told else None
        cache = request.headers.get("cache-control", "no-cache")
        project.commit(name, path, request.headers.get("content-type", ""), cache, metadata)
        return JSONResponse({"Key": f"{project.bucket}/{name}", "Id": project.objects[name].id})

    async def body(self, request: Request, write: Callable[[bytes], Any]) -> int:
        count = len(self.server.received)
        self.server.received.append(0)
        async for block in request.stream():
            await asyncio.to_thread(write, block)
            self.server.count(count, len(block))
            await self.server.faults.hold(request, inside=True)
        return self.server.received[count]

    def mime(self, mime: str) -> None:
        if mime != "application/zip":
            raise Answer(415, "InvalidMimeType", "invalid_mime_type", f"mime type {mime} is not supported")

    async def read(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.bucket(request, request.path_params["bucket"])
        made = self.readable(request, name)
        if self.server.faults.cached:
            at, made = self._cache.setdefault(str(request.url), (self.project.now(), made))
            if self.project.now() - at > CACHE_SECONDS:
                made = self.project.find(name)
        return _content(request, made)

    def readable(self, request: Request, name: str) -> Object:
        """Without the right to select, what is there looks as if it were not."""
        key = self.key(request)
        if key == EXPIRED or key not in self.project.rights:
            self.allow(request, name, "select")
        if not self.project.may(key, name, "select"):
            raise missing()
        return self.project.find(name)

    async def info(self, request: Request) -> Response:
        if self.key(request) not in self.project.rights:
            self.bucket(request, "")
        self.bucket(request, request.path_params["bucket"])
        made = self.readable(request, request.path_params["name"])
        told = {
            "id": made.id,
            "name": request.path_params["name"],
            "version": made.version,
            "bucket_id": self.project.bucket,
            "size": made.size,
            "content_type": made.mime,
            "cache_control": made.cache_control,
            "etag": made.etag,
            "metadata": made.metadata,
            "last_modified": stamp(made.updated_at),
            "created_at": stamp(made.created_at),
        }
        return JSONResponse(told)

    async def move(self, request: Request) -> Response:
        told, objects = await request.json(), self.project.objects
        source, target = told["sourceKey"], told["destinationKey"]
        self.allow(request, target, "select", "update")
        made = self.readable(request, source)
        if target in objects:
            raise taken()
        del objects[source]
        self.project.put_again(made, target)
        return JSONResponse({"message": "Successfully moved"})

    async def copy(self, request: Request) -> Response:
        told = await request.json()
        source, target = told["sourceKey"], told["destinationKey"]
        made = self.readable(request, source)
        replacing = request.headers.get("x-upsert") == "true"
        self.allow(request, target, "insert", *(("select", "update") if replacing else ()))
        if target in self.project.objects and not replacing:
            raise taken()
        self.project.put_again(made, target)
        return JSONResponse({"Key": f"{self.project.bucket}/{target}"})

    async def remove(self, request: Request) -> Response:
        self.bucket(request, request.path_params["bucket"])
        told, gone = await request.json(), []
        for name in told["prefixes"]:
            may = self.project.may(self.key(request), name, "select", "delete")
            if may and name in self.project.objects:
                if "remove" not in self.server.faults.mute:
                    del self.project.objects[name]
                gone.append({"name": name})
        return JSONResponse(gone)

    async def list(self, request: Request) -> Response:
        self.bucket(request, request.path_params["bucket"])
        told, key = await request.json(), self.key(request)
        if key == EXPIRED or key not in self.project.rights:
            self.allow(request, "", "select")
        folder = told["prefix"]
        if not self.project.may(key, f"{folder}/", "select"):
            return JSONResponse([])
        rows = self.project.rows(folder, told.get("search", ""))
        start = told.get("offset", 0)
        return JSONResponse(rows[start : start + told.get("limit", 100)])


def _content(request: Request, made: Object) -> Response:
    start, end, status = 0, made.size, 200
    headers = {"etag": made.etag, "cache-control": made.cache_control, "accept-ranges": "bytes"}
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        start, status = int(asked[1]), 206
        if start >= made.size:
            return Response(status_code=416)
        end = min(int(asked[2]) + 1, end) if asked[2] else end
        headers["content-range"] = f"bytes {start}-{end - 1}/{made.size}"
    headers["content-length"] = str(end - start)
    return StreamingResponse(_blocks(made.path, start, end), status, headers, media_type=made.mime)


async def _blocks(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while block := await asyncio.to_thread(file.read, min(BLOCK, end - file.tell())):
            yield block


def _answering(server: Server, handler: Handler) -> Handler:
    """Errors in the forms that they have, faults where they are wanted, and a record of what was asked."""

    async def answer(request: Request) -> Response:
        method, path = request.method, request.url.path.removeprefix("/storage/v1")
        server.requests.append((method, path))
        try:
            await server.faults.hold(request, inside=False)
            server.faults.take(method, path)
            done = await handler(request)
        except Answer as error:
            return JSONResponse(error.body, error.http)
        except Plain as error:
            return PlainTextResponse(str(error), error.status)
        except ClientDisconnect:
            return Response(status_code=499)
        if server.faults.loses(method, path):
            return _lost()
        return done

    return answer


def _lost() -> Response:
    """The work is done, and the connection breaks before its answer is whole."""

    async def part() -> AsyncIterator[bytes]:
        yield b"{"

    return StreamingResponse(part(), 200, {"content-length": "100"})


def storage_app(server: Server) -> Starlette:
    storage, uploads = _Storage(server), tus.Uploads(server.project)
    routes: list[tuple[str, str, Handler]] = [
        ("POST", "/object/move", storage.move),
        ("POST", "/object/copy", storage.copy),
        ("POST", "/object/list/{bucket}", storage.list),
        ("GET", "/object/info/{bucket}/{name:path}", storage.info),
        ("GET", "/object/authenticated/{bucket}/{name:path}", storage.read),
        ("POST", "/object/{bucket}/{name:path}", storage.create),
        ("DELETE", "/object/{bucket}", storage.remove),
        ("OPTIONS", "/upload/resumable", uploads.offer),
        ("POST", "/upload/resumable", lambda request: uploads.create(request, storage)),
        ("HEAD", "/upload/resumable/{id}", uploads.standing),
        ("PATCH", "/upload/resumable/{id}", lambda request: uploads.part(request, storage)),
        ("DELETE", "/upload/resumable/{id}", uploads.abandon),
    ]
    return Starlette(
        routes=[
            Route(f"/storage/v1{path}", _answering(server, handler), methods=[method])
            for method, path, handler in routes
        ]
    )


@asynccontextmanager
async def storage_server(project: Project, port: int = 0) -> AsyncIterator[Server]:
    listener = listen("127.0.0.1", port)
    server = Server(url_of(listener), project, Faults())
    async with serving(storage_app(server), listener):
        yield server
