"""Files over the wire: in pieces, off the event loop, whole or not at all."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import httpx

from overnight.client.errors import DamagedDownload

PIECE = 1024 * 1024

_SHA256 = re.compile(r'"([0-9a-f]{64})"', re.ASCII)


@asynccontextmanager
async def replacing(target: Path) -> AsyncIterator[Path]:
    """A file beside `target` to write to. It becomes `target` if the block ends well, else it is deleted."""
    partial = Path(await asyncio.to_thread(_sibling, target))
    try:
        yield partial
        await asyncio.to_thread(partial.replace, target)
    finally:
        await asyncio.to_thread(partial.unlink, missing_ok=True)


async def save(response: httpx.Response, path: Path) -> int:
    """Write the body; returns its size in bytes. A body whose ETag is a SHA-256 is checked against it.

    Raises DamagedDownload, OSError.
    """
    try:
        size, digest = await _write(response, path)
    except httpx.RemoteProtocolError as broken:
        message = (
            "the service broke the download off: the archive was replaced meanwhile, or cannot be read there (its log "
            "says so). Nothing was kept, try again"
        )
        raise DamagedDownload(message) from broken
    stated = _SHA256.fullmatch(response.headers.get("etag", ""))
    if stated is not None and stated[1] != digest:
        raise DamagedDownload("what arrived is not what the service holds; nothing was kept, try again")
    return size


async def pieces(source: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(source.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


async def _write(response: httpx.Response, path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with await asyncio.to_thread(path.open, "wb") as file:
        async for piece in response.aiter_bytes(PIECE):
            await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(digest.update, piece)
            size += len(piece)
    return size, digest.hexdigest()


def _sibling(target: Path) -> str:
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        return file.name
