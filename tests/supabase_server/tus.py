"""The resumable protocol of the stand-in: true statuses, plain text, parts of at most 6 MiB."""

import base64
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from tests.supabase_server.bucket import CHUNK, Answer, Plain, Project, Upload

VERSION = {"tus-resumable": "1.0.0"}


class Front(Protocol):
    """What the REST side knows of keys and bodies."""

    def allow(self, request: Request, name: str, *operations: str) -> None: ...

    async def body(self, request: Request, write: Callable[[bytes], Any]) -> int: ...


class Uploads:
    def __init__(self, project: Project) -> None:
        self._project = project

    async def offer(self, request: Request) -> Response:
        extensions = ["creation", "creation-with-upload", "termination", "expiration"]
        if self._project.deferred:
            extensions.append("creation-defer-length")
        headers = {
            **VERSION,
            "tus-extension": ",".join(extensions),
            "tus-max-size": str(self._project.largest),
        }
        return Response(status_code=204, headers=headers)

    async def create(self, request: Request, front: Front) -> Response:
        self._check_version(request)
        pairs = (pair.split(" ") for pair in request.headers["upload-metadata"].split(","))
        metadata = {name: base64.b64decode(value).decode() for name, value in pairs}
        name, upsert = metadata["objectName"], request.headers.get("x-upsert") == "true"
        if metadata["bucketName"] != self._project.bucket:
            raise Plain(404, "Bucket not found")
        self._may(front, request, name, upsert=upsert)
        length = self._length(request)
        upload = Upload(name, self._project.new_file(), length, metadata, upsert)
        upload.path.touch()
        number = uuid.uuid4().hex
        self._project.uploads[number] = upload
        # As behind a proxy that does not tell its name: only the last component is of use.
        return Response(status_code=201, headers={**VERSION, "location": f"http://inner/upload/{number}"})

    async def standing(self, request: Request) -> Response:
        upload = self._upload(request)
        known = (
            {"upload-defer-length": "1"} if upload.length is None else {"upload-length": str(upload.length)}
        )
        return Response(headers={**VERSION, **known, "upload-offset": str(upload.offset)})

    async def part(self, request: Request, front: Front) -> Response:
        upload = self._upload(request)
        self._may(front, request, upload.key, upsert=request.headers.get("x-upsert") == "true")
        if int(request.headers["upload-offset"]) != upload.offset:
            raise Plain(409, "Upload-Offset conflict")
        if upload.length is None and "upload-length" in request.headers:
            upload.length = self._length(request)
        elif "upload-length" in request.headers:
            raise Plain(400, "Upload-Length was told before")
        self._check_size(upload, int(request.headers["content-length"]))
        await self._receive(request, front, upload)
        if upload.offset == upload.length:
            self._finish(request, upload)
        return Response(status_code=204, headers={**VERSION, "upload-offset": str(upload.offset)})

    async def abandon(self, request: Request) -> Response:
        self._upload(request)
        del self._project.uploads[request.path_params["id"]]
        return Response(status_code=204, headers=VERSION)

    async def _receive(self, request: Request, front: Front, upload: Upload) -> None:
        """What came of a broken part stays, as the file backend has it."""
        upload.locked = True
        try:
            with upload.path.open("ab") as file:
                try:
                    await front.body(request, file.write)
                except ClientDisconnect:
                    pass
                finally:
                    file.flush()
                    upload.offset = file.tell()
        finally:
            upload.locked = False

    def _finish(self, request: Request, upload: Upload) -> None:
        upsert = request.headers.get("x-upsert") == "true"
        if upload.key in self._project.objects and not upsert:
            raise Plain(409, "The resource already exists")
        told = upload.metadata.get("cacheControl", "")
        cache = f"max-age={told}" if told.isdecimal() else "no-cache"
        self._project.commit(upload.key, upload.path, upload.metadata.get("contentType", ""), cache, None)

    def _check_size(self, upload: Upload, size: int) -> None:
        end = upload.offset + size
        if size > CHUNK or (size < CHUNK and upload.length != end):
            raise Plain(400, "a part of another size")
        if end > self._project.limit():
            raise Plain(413, "Maximum size exceeded")

    def _length(self, request: Request) -> int | None:
        told = request.headers.get("upload-length")
        if told is None:
            if not self._project.deferred or request.headers.get("upload-defer-length") != "1":
                raise Plain(400, "Upload-Length or Upload-Defer-Length header required")
            return None
        if int(told) > self._project.limit():
            raise Plain(413, "Maximum size exceeded")
        return int(told)

    def _may(self, front: Front, request: Request, name: str, *, upsert: bool) -> None:
        try:
            front.allow(request, name, "insert", *(("select", "update") if upsert else ()))
        except Answer as error:
            raise Plain(403, str(error)) from None

    def _upload(self, request: Request) -> Upload:
        self._check_version(request)
        upload = self._project.uploads.get(request.path_params["id"])
        if upload is None:
            raise Plain(404, "The file for this url was not found")
        if upload.locked:
            raise Plain(423, "The upload is locked")
        return upload

    def _check_version(self, request: Request) -> None:
        if request.headers.get("tus-resumable") != "1.0.0":
            raise Plain(412, "Tus-Resumable Required")
