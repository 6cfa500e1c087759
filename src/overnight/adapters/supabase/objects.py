"""Objects of the bucket, by key: what the storage's REST API can do with them."""

import base64
import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from overnight.adapters.supabase.connection import Connection
from overnight.adapters.supabase.faults import Fault, StorageFault

PAGE = 1000
ZIP = "application/zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """`md5` is the hash of the bytes, where the server has it; `sha256` what the uploader said of them."""

    size: int
    etag: str
    sha256: str | None

    @property
    def md5(self) -> str | None:
        """An etag with a dash is a hash of hashes of parts (facts: supabase 2)."""
        plain = self.etag.strip('"')
        return plain if len(plain) == 32 and "-" not in plain else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a listing. `updated_at` in Unix seconds."""

    key: str
    size: int
    updated_at: float


class Objects:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bucket = connection.access.bucket

    async def create(self, key: str, size: int, body: AsyncIterable[bytes], sha256: str) -> None:
        """One raw POST, once. Always with a length: without one the server checks no limit."""
        told = base64.b64encode(json.dumps({"sha256": sha256}).encode()).decode()
        await self._connection.once(
            "POST",
            f"{self._connection.access.rest}/object/{self._bucket}/{key}",
            headers={
                "content-type": ZIP,
                "content-length": str(size),
                "cache-control": "no-store",
                "x-upsert": "true",
                "x-metadata": told,
            },
            content=body,
        )

    async def info(self, key: str) -> Info:
        """Raises StorageFault: MISSING also without the right to read."""
        path = f"/object/info/{self._bucket}/{key}"
        told = await self._connection.ask("GET", path, params={"v": self._connection.nonce()})
        metadata = told.get("metadata")
        sha256 = metadata.get("sha256") if isinstance(metadata, Mapping) else None
        size = int(told.get("size") or 0)
        return Info(size=size, etag=str(told.get("etag") or ""), sha256=sha256)

    async def find(self, key: str) -> Info | None:
        try:
            return await self.info(key)
        except StorageFault as error:
            if error.fault is Fault.MISSING:
                return None
            raise

    async def move(self, key: str, target: str) -> None:
        """The one write with exactly one winner: it refuses a target that exists (facts: supabase 1)."""
        await self._connection.ask("POST", "/object/move", json=self._from_to(key, target))

    async def copy(self, key: str, target: str) -> None:
        """Replaces the target, whose readers see the old bytes or the new ones."""
        await self._connection.ask(
            "POST", "/object/copy", json=self._from_to(key, target), headers={"x-upsert": "true"}
        )

    async def remove(self, key: str) -> bool:
        """Whether this call removed it. Without the right to, the answer is that there was nothing."""
        removed = await self._connection.ask("DELETE", f"/object/{self._bucket}", json={"prefixes": [key]})
        return any(row.get("name") == key for row in removed)

    async def walk(self, folder: str, beginning: str = "") -> AsyncIterator[Row]:
        """All objects below a folder, at any depth; of its own entries those with the beginning."""
        folders, search = [folder], beginning
        while folders:
            place = folders.pop()
            async for row in self._entries(place, search):
                key = f"{place}/{row['name']}"
                if row.get("id") is None:
                    folders.append(key)
                else:
                    yield _row(key, row)
            search = ""

    async def in_folder(self, key: str) -> bool:
        """Whether a listing shows the object."""
        folder, _, file = key.rpartition("/")
        rows = await self._page(folder, 0, search=file)
        return any(row["name"] == file and row.get("id") is not None for row in rows)

    async def _entries(self, folder: str, search: str) -> AsyncIterator[Mapping[str, object]]:
        offset, full = 0, True
        while full:
            rows = await self._page(folder, offset, search)
            for row in rows:
                yield row
            offset, full = offset + len(rows), len(rows) == PAGE

    async def _page(self, folder: str, offset: int, search: str = "") -> Sequence[Mapping[str, object]]:
        asked: dict[str, object] = {
            "prefix": folder,
            "limit": PAGE,
            "offset": offset,
            "sortBy": {"column": "name", "order": "asc"},
        }
        if search:
            asked["search"] = search
        rows: Sequence[Mapping[str, object]] = await self._connection.ask(
            "POST", f"/object/list/{self._bucket}", json=asked
        )
        return rows

    def _from_to(self, key: str, target: str) -> Mapping[str, str]:
        return {"bucketId": self._bucket, "sourceKey": key, "destinationKey": target}


def _row(key: str, row: Mapping[str, object]) -> Row:
    metadata = row.get("metadata")
    size = metadata.get("size", 0) if isinstance(metadata, Mapping) else 0
    return Row(key=key, size=int(size), updated_at=_seconds(str(row["updated_at"])))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
