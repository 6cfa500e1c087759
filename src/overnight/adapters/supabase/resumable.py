"""Resumable uploads (the TUS protocol 1.0.0), as Supabase Storage speaks it."""

import base64
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass

import httpx

from overnight.adapters.supabase.connection import Connection
from overnight.adapters.supabase.faults import Fault, StorageFault, fault_of
from overnight.adapters.supabase.objects import ZIP

CHUNK = 6 * 1024 * 1024
"""Bytes of every part but the last: Supabase takes no other number."""
VERSION: Mapping[str, str] = {"tus-resumable": "1.0.0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the server takes. `largest` in bytes, of one object; None if it does not say.

    `deferred`: an upload may begin before its length is known.
    """

    largest: int | None
    deferred: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far an upload is: bytes that the server has, and the whole length once it was told."""

    offset: int
    length: int | None


class Resumable:
    """Uploads are named by the last component of their URL: the rest of it may be the server's inner name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._url = connection.access.resumable

    async def offer(self) -> Offer:
        """Needs no key. Raises StorageFault, Unreachable."""

        async def attempt() -> httpx.Response:
            answer = await self._connection.http.request("OPTIONS", self._url, headers=VERSION)
            if not answer.is_success:
                raise fault_of(answer.status_code, answer.content)
            return answer

        headers = (await self._connection.patience.over(attempt)).headers
        largest = headers.get("tus-max-size", "")
        extensions = {name.strip() for name in headers.get("tus-extension", "").split(",")}
        return Offer(
            largest=int(largest) if largest.isdecimal() else None,
            deferred="creation-defer-length" in extensions,
        )

    async def create(self, key: str, *, length: int | None) -> str:
        """The id of a new upload to the key; without a length it must be told with a later part."""
        known = {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
        metadata = {
            "bucketName": self._connection.access.bucket,
            "objectName": key,
            "contentType": ZIP,
            "cacheControl": "0",  # seconds; this protocol takes no `no-store`
        }
        pairs = (f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())
        headers = {**VERSION, **known, "upload-metadata": ",".join(pairs), "x-upsert": "true"}
        answer = await self._connection.patience.over(
            lambda: self._connection.once("POST", self._url, headers=headers)
        )
        return _header(answer, "location").rstrip("/").rpartition("/")[2]

    async def standing(self, upload: str) -> Standing:
        """Raises StorageFault (GONE if it has expired), Unreachable."""
        answer = await self._connection.patience.over(
            lambda: self._connection.once("HEAD", f"{self._url}/{upload}", headers=VERSION)
        )
        length = answer.headers.get("upload-length", "")
        return Standing(
            offset=int(_header(answer, "upload-offset")), length=int(length) if length.isdecimal() else None
        )

    async def send(
        self, upload: str, offset: int, size: int, body: AsyncIterable[bytes], *, length: int | None
    ) -> int:
        """One part, once; `length` tells the whole length for the first time. Returns the new offset.

        Raises StorageFault, httpx.TransportError.
        """
        headers = {
            **VERSION,
            "content-type": "application/offset+octet-stream",
            "content-length": str(size),
            "upload-offset": str(offset),
            "x-upsert": "true",
        }
        if length is not None:
            headers["upload-length"] = str(length)
        answer = await self._connection.once("PATCH", f"{self._url}/{upload}", headers=headers, content=body)
        return int(_header(answer, "upload-offset"))

    async def abandon(self, upload: str) -> None:
        """Raises StorageFault, httpx.TransportError."""
        await self._connection.once("DELETE", f"{self._url}/{upload}", headers=VERSION)


def _header(answer: httpx.Response, name: str) -> str:
    value: str | None = answer.headers.get(name)
    if value is None:
        raise StorageFault(Fault.PASSING, f"an answer without {name}")
    return value
