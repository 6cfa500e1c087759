"""One small object written, read, listed and deleted: whether the store can be used, before a job needs it."""

import hashlib
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from overnight.adapters.supabase.access import INCOMING
from overnight.adapters.supabase.connection import Connection
from overnight.adapters.supabase.download import Download
from overnight.adapters.supabase.faults import Fault, StorageFault
from overnight.adapters.supabase.objects import Objects
from overnight.ports import ArchiveDenied

T = TypeVar("T")

BODY = b"overnight"


class Canary:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._objects = Objects(connection)
        access = connection.access
        self._where = f"the bucket `{access.bucket}`, below `{access.prefix}/`"
        self._bucket = access.bucket

    async def sing(self) -> None:
        """Raises ArchiveDenied, which says what is refused; Unreachable."""
        name = f"canary-{self._connection.nonce()}"
        incoming = f"{self._connection.access.prefix}/{INCOMING}/{name}.zip"
        key = f"{self._connection.access.prefix}/{INCOMING}/{name}.moved.zip"
        await self._may("write", self._connection.patience.over(lambda: self._write(incoming)))
        await self._may("read", Download(self._connection).sha256(incoming))
        await self._may("move", self._objects.move(incoming, key))
        await self._shown(key)
        if not await self._may("delete", self._objects.remove(key)):
            raise ArchiveDenied(self._refused("delete", "it says that there is nothing to delete"))

    async def _write(self, key: str) -> None:
        await self._objects.create(key, len(BODY), _once(BODY), hashlib.sha256(BODY).hexdigest())

    async def _shown(self, key: str) -> None:
        if not await self._may("list", self._objects.in_folder(key)):
            raise ArchiveDenied(self._refused("list", "the listing is empty"))

    async def _may(self, what: str, attempt: Awaitable[T]) -> T:
        try:
            return await attempt
        except StorageFault as error:
            raise self._denied(what, error) from None

    def _denied(self, what: str, error: StorageFault) -> ArchiveDenied:
        if error.fault is Fault.NO_BUCKET:
            return ArchiveDenied(
                f"Supabase Storage has no bucket `{self._bucket}` that this key may use. {_CREATE}"
            )
        return ArchiveDenied(self._refused(what, error.code))

    def _refused(self, what: str, said: str) -> str:
        return f"Supabase Storage does not let this key {what} in {self._where} ({said}). {_RIGHTS}"


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


_CREATE = (
    "Check the key, and create the bucket: `overnight doctor` prints the SQL for the project's SQL editor."
)
_RIGHTS = (
    "Check that the key is one of this project and has not been revoked; prefer a secret key, or give the key the "
    "four rights that it needs: `overnight doctor` prints the SQL for the project's SQL editor."
)
