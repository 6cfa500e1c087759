"""Archives in a bucket that speaks S3, through obstore (the extra `overnight[s3]`).

Small archives are created by one conditional request. Larger ones go up in parts while they are still being
packed, with a bounded number in memory; S3 shows nothing of an upload before it is complete (docs/decisions/0061).
"""

import asyncio
import errno
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from overnight.archive.durable import whole_file
from overnight.archive.names import check_name, check_prefix
from overnight.ports import (
    ArchiveConflict,
    ArchiveDenied,
    ArchiveMissing,
    Growth,
    ListedArchive,
    StoredArchive,
    whole,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

PART = 8 << 20
"""Bytes of one part of an upload, and the most that goes up in one request. S3 takes 10,000 parts: 80 GB."""
PARTS_IN_FLIGHT = 2
GIVE_UP_SECONDS = 10.0
"""How long a cancelled upload may take to delete its parts."""
_PIECE = 1 << 20
_SHA256 = "sha256"

_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_STATUS = re.compile(r"status code: ([1-5][0-9]{2})")
_REMEDIES = {
    "NoSuchBucket": "Make the bucket, or correct OVERNIGHT_S3_BUCKET.",
    "AccessDenied": "Allow the key s3:GetObject, s3:PutObject and s3:DeleteObject on the objects, and s3:ListBucket "
    "on the bucket (docs/archives-s3.md).",
    "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY.",
    "ExpiredToken": "Renew the credentials, with AWS_SESSION_TOKEN.",
    "InvalidToken": "Correct AWS_SESSION_TOKEN.",
    "PermanentRedirect": "Set OVERNIGHT_S3_REGION to the bucket's region.",
    "AuthorizationHeaderMalformed": "Set OVERNIGHT_S3_REGION to the bucket's region.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where it is. Without a key, obstore looks for the credentials of the machine it runs on (EC2, ECS, EKS)."""

    name: str
    prefix: str | None = None
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    retries: int = 10


def s3_archives(bucket: Bucket) -> "S3Archives":
    config: S3Config = {"disable_bulk_delete": True}  # not every store that speaks S3 has it
    if bucket.endpoint:
        config["endpoint"] = bucket.endpoint
    if bucket.region:
        config["region"] = bucket.region
    if bucket.access_key_id and bucket.secret_access_key:
        config["access_key_id"] = bucket.access_key_id
        config["secret_access_key"] = bucket.secret_access_key
    if bucket.session_token:
        config["session_token"] = bucket.session_token
    client: ClientConfig = {
        "allow_http": bool(bucket.endpoint and bucket.endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(
            hours=6
        ),  # of a whole answer with its body: the default of 30 s cuts off downloads
    }
    retry: RetryConfig = {"max_retries": bucket.retries}
    store = S3Store(
        bucket.name, prefix=bucket.prefix, config=config, client_options=client, retry_config=retry
    )
    return S3Archives(store)


class S3Archives:
    """The port `ArchiveStore`. The objects' metadata holds their SHA-256 if it was known when the upload began."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        """The source stays."""
        check_name(name)
        size, done = await _begun(source, growth)
        if await self._head(name) is not None:
            await whole(growth)
            return await self._same(name, source)
        if done and size <= PART:
            return await self._create(name, source)
        return await self._send(name, source, None if done else growth)

    async def fetch(self, name: str, target: Path) -> StoredArchive:
        """Also raises OSError (EIO) if the bytes are no longer those that were put."""
        check_name(name)
        try:
            found = await obstore.get_async(self._store, name)
            digest, size = hashlib.sha256(), 0
            with whole_file(target, durable=False) as copy:
                async for piece in found.stream(min_chunk_size=_PIECE):
                    await asyncio.to_thread(digest.update, piece)
                    size += await asyncio.to_thread(copy.write, piece)
                _check_digest(name, digest.hexdigest(), found.attributes.get(_SHA256))
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None
        return StoredArchive(name=name, size=size, sha256=digest.hexdigest())

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        try:
            found = await obstore.get_range_async(self._store, check_name(name), start=start, length=length)
            return bytes(found)
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None

    async def publish(self, name: str, alias: str) -> None:
        """S3 copies up to 5 GB in one step; of a larger archive there is no alias, and OSError is raised."""
        try:
            await obstore.copy_async(self._store, check_name(name), check_name(alias))
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None

    async def delete(self, name: str) -> None:
        try:
            await obstore.delete_async(self._store, check_name(name))
        except (BaseError, FileNotFoundError) as error:
            meaning = _meaning(error)
            if not isinstance(meaning, ArchiveMissing):
                raise meaning from None
        if await self._head(name) is not None:
            raise OSError(
                errno.EACCES, "The bucket has taken the deletion, but the archive is still there", name
            )

    async def listing(self, prefix: str) -> Sequence[ListedArchive]:
        directory = check_prefix(prefix).rpartition("/")[0]
        try:
            found = await obstore.list(self._store, directory or None, chunk_size=1000).collect_async()
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None
        return [
            ListedArchive(name=line["path"], size=line["size"], stored_at=line["last_modified"].timestamp())
            for line in sorted(found, key=lambda line: line["path"])
            if line["path"].startswith(prefix) and line["path"].endswith(".zip")
        ]

    async def _head(self, name: str) -> str | None:
        """The object's tag, None if there is no object: an answer without a body cannot say more than that."""
        try:
            return (await obstore.head_async(self._store, name))["e_tag"] or ""
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise _meaning(error) from None

    async def _create(self, name: str, source: Path) -> StoredArchive:
        content = await asyncio.to_thread(source.read_bytes)
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            await obstore.put_async(self._store, name, content, mode="create", attributes=_attributes(sha256))
        except AlreadyExistsError:
            return await self._same(name, source)
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None
        return StoredArchive(name=name, size=len(content), sha256=sha256)

    async def _send(self, name: str, source: Path, growth: Growth | None) -> StoredArchive:
        """In parts. If `growth` breaks, or the call is cancelled, the upload is given up and its parts are deleted."""
        sha256 = None if growth else (await asyncio.to_thread(_measure, source))[1]
        reading = _Reading(source, growth)
        sending = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                name,
                reading.pieces(),
                attributes=_attributes(sha256),
                use_multipart=True,
                chunk_size=PART,
                max_concurrency=PARTS_IN_FLIGHT,
            )
        )
        try:
            put = await asyncio.shield(sending)
        except (
            asyncio.CancelledError
        ):  # obstore deletes the parts if their source breaks, not if it is cancelled
            reading.called_off = True
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    await asyncio.gather(sending, return_exceptions=True)
            raise
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None
        if await self._head(name) != (put["e_tag"] or ""):
            return await self._same(name, source)
        return StoredArchive(name=name, size=reading.size, sha256=reading.digest.hexdigest())

    async def _same(self, name: str, source: Path) -> StoredArchive:
        """What is stored, if it is the same; raises ArchiveConflict."""
        size, sha256 = await asyncio.to_thread(_measure, source)
        try:
            found = await obstore.get_async(self._store, name, options={"head": True})
            stored = found.attributes.get(_SHA256)
            if stored is None and found.meta["size"] == size:
                stored = await self._digest(name)
        except (BaseError, FileNotFoundError) as error:
            raise _meaning(error) from None
        if stored != sha256:
            raise ArchiveConflict
        return StoredArchive(name=name, size=size, sha256=sha256)

    async def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        async for piece in (await obstore.get_async(self._store, name)).stream(min_chunk_size=_PIECE):
            await asyncio.to_thread(digest.update, piece)
        return digest.hexdigest()


class _Reading:
    """A file read front to back, as far as it is written, and until `called_off`. `size` and `digest` are of what was
    read."""

    def __init__(self, source: Path, growth: Growth | None) -> None:
        self._source = source
        self._growth = growth
        self.size = 0
        self.digest = hashlib.sha256()
        self.called_off = False

    async def pieces(self) -> AsyncIterator[bytes]:
        done = False
        while not done:
            there, done = await self._written()
            while self.size < there:
                if self.called_off:
                    raise InterruptedError("the archive is not wanted any more")
                piece = await asyncio.to_thread(self._read, min(_PIECE, there - self.size))
                self.size += len(piece)
                yield piece

    async def _written(self) -> tuple[int, bool]:
        if self._growth is None:
            return (await asyncio.to_thread(self._source.stat)).st_size, True
        return await self._growth.beyond(self.size)

    def _read(self, size: int) -> bytes:
        with self._source.open("rb") as file:
            file.seek(self.size)
            piece = file.read(size)
        if not piece:
            raise OSError(errno.EIO, "The archive became shorter while it was stored", self._source.name)
        self.digest.update(piece)
        return piece


async def _begun(source: Path, growth: Growth | None) -> tuple[int, bool]:
    """(bytes, whether that is all), once there is more than one part, or all."""
    if growth is None:
        return (await asyncio.to_thread(source.stat)).st_size, True
    return await growth.beyond(PART)


def _attributes(sha256: str | None) -> dict[str, str]:
    attributes = {"Content-Type": "application/zip"}
    return attributes if sha256 is None else attributes | {_SHA256: sha256}


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


def _check_digest(name: str, sha256: str, expected: str | None) -> None:
    if expected not in {None, sha256}:
        raise OSError(errno.EIO, "The archive no longer has the checksum it was stored with", name)


def _meaning(error: Exception) -> Exception:
    """What an answer means. Only the code NoSuchKey says that an archive is missing: a status of 404 can also come
    of a wrong bucket or of something in between, and to take that for a new session would lose the old one."""
    found = _CODE.search(str(error))
    code = found[1] if found else None
    if code == "NoSuchKey":
        return ArchiveMissing()
    if code is None and isinstance(error, PermissionDeniedError | UnauthenticatedError):
        code = "AccessDenied"
    if code in _REMEDIES:
        return ArchiveDenied(f"The bucket of the archives refused ({code}). {_REMEDIES[code]}")
    status = _STATUS.search(str(error))
    said = code or (status and status[1])
    what = f"answered {said}" if said else "could not be reached, or broke off"
    return OSError(errno.EIO, f"The bucket of the archives {what}; it can be tried again")
