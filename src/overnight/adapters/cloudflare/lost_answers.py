"""What a write came to whose answer was lost: looked up, since to decide again would tell of it twice."""

import asyncio
from collections.abc import Mapping

from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Documents, Read
from overnight.ports import StorageError

LOOK_SECONDS = 3.0
"""A renewal that hangs must have failed, this look included, before the alarm takes its job back (`over_http.py`)."""


class CertainDocuments:
    """The port `Documents`. A write that fails may have been made all the same; then it has not failed."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        return await self._documents.read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        """Raises StorageError if nothing was written, or if that cannot be told."""
        try:
            return await self._documents.write(name, batch)
        except StorageError as failure:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    stands = await self._stands(name, batch)
            except TimeoutError:
                raise failure from None
            if not stands:
                raise
            return True

    async def _stands(self, name: str, batch: Batch) -> bool:
        """Whether all of it is there, in the versions that follow those it counted on. What counts on nothing can be
        written again."""
        if not batch.expect or not batch.put:
            return False
        found = await self._documents.read(name, Read(keys=[*batch.put, *batch.delete]))
        bodies = {key: document.body for key, document in found.items()}
        return bodies == dict(batch.put) and all(
            found[key].version == version + 1
            for key, version in batch.expect.items()
            if key in found and version != ABSENT
        )
