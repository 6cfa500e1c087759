"""What the stand-in of Supabase Storage keeps, and who may do what with it (facts: supabase 1, 2, 6)."""

import hashlib
import itertools
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

CHUNK = 6 * 1024 * 1024
PART = 16 * 1024 * 1024
"""Of the S3 backend: the etag of anything larger is a hash of the hashes of its parts."""
SECRET, SERVICE, ANON, EXPIRED = "sb_secret_made_up", "service.role.jwt", "anon.jwt.key", "expired.jwt.key"
ALL = frozenset({"select", "insert", "update", "delete"})


class Answer(Exception):
    """An error in the storage's own form: HTTP 400, and the truth in the body."""

    def __init__(self, status: int, code: str, error: str, message: str, *, http: int = 400) -> None:
        super().__init__(message)
        self.http = http
        self.body = {"statusCode": str(status), "error": error, "message": message, "code": code}


class Plain(Exception):
    """An error of the resumable protocol: a true status, and plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def missing() -> Answer:
    return Answer(404, "NoSuchKey", "not_found", "Object not found")


def false_miss() -> Answer:
    return Answer(404, "NoSuchKey", "Not found", "The resource was not found")


def denied() -> Answer:
    return Answer(403, "AccessDenied", "Unauthorized", "new row violates row-level security policy")


def taken() -> Answer:
    return Answer(409, "KeyAlreadyExists", "Duplicate", "The resource already exists")


def too_large() -> Answer:
    return Answer(413, "EntityTooLarge", "Payload too large", "The object exceeded the maximum allowed size")


@dataclass(frozen=True)
class Object:
    path: Path
    size: int
    etag: str
    mime: str
    cache_control: str
    metadata: dict[str, str] | None
    created_at: float
    updated_at: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    version: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Upload:
    key: str
    path: Path
    length: int | None
    metadata: dict[str, str]
    upsert: bool
    offset: int = 0
    locked: bool = False


@dataclass
class Project:
    """One project's storage, with one bucket. Times are the machine's, moved forward by `shift`."""

    directory: Path
    bucket: str = "content"
    prefix: str = "claude-code"
    largest: int = 50 * 1024**3
    bucket_largest: int | None = None
    deferred: bool = True
    s3_backend: bool = False
    rights: dict[str, frozenset[str]] = field(default_factory=lambda: {SECRET: ALL, SERVICE: ALL, ANON: ALL})
    objects: dict[str, Object] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    shift: float = 0.0
    _files: Iterable[int] = field(default_factory=itertools.count)

    def now(self) -> float:
        return time.time() + self.shift

    def new_file(self) -> Path:
        """Old versions stay on disk: a stale cache may still show them."""
        return self.directory / f"{next(iter(self._files))}.bin"

    def may(self, key: str | None, name: str, *operations: str) -> bool:
        """By the policies; the keys of a server pass them all, and see the whole bucket."""
        granted = self.rights.get(key or "", frozenset())
        inside = name.split("/", maxsplit=1)[0] == self.prefix or key in {SECRET, SERVICE}
        return inside and set(operations) <= granted

    def find(self, name: str) -> Object:
        try:
            return self.objects[name]
        except KeyError:
            raise missing() from None

    def commit(self, name: str, path: Path, mime: str, cache: str, metadata: dict[str, str] | None) -> None:
        """An upsert, whatever was asked for: existence was only tested before (facts: supabase 1)."""
        before, now = self.objects.get(name), self.now()
        made = Object(
            path=path,
            size=path.stat().st_size,
            etag=self.etag(path),
            mime=mime,
            cache_control=cache,
            metadata=metadata,
            created_at=before.created_at if before else now,
            updated_at=now,
        )
        self.objects[name] = replace(made, id=before.id) if before else made

    def put_again(self, source: Object, name: str) -> None:
        self.objects[name] = replace(source, updated_at=self.now(), version=str(uuid.uuid4()))

    def etag(self, path: Path) -> str:
        with path.open("rb") as file:
            if not self.s3_backend or path.stat().st_size <= PART:
                return f'"{hashlib.file_digest(file, "md5").hexdigest()}"'
            parts = [hashlib.md5(part).digest() for part in iter(lambda: file.read(PART), b"")]
        return f'"{hashlib.md5(b"".join(parts)).hexdigest()}-{len(parts)}"'

    def limit(self) -> int:
        return min(self.largest, self.bucket_largest or self.largest)

    def rows(self, folder: str, search: str) -> list[dict[str, object]]:
        """The entries of one folder: objects, and folders without an id."""
        start = f"{folder.rstrip('/')}/" if folder else ""
        found: dict[str, dict[str, object]] = {}
        for name, made in self.objects.items():
            if not name.startswith(start):
                continue
            entry, _, deeper = name.removeprefix(start).partition("/")
            if entry.lower().startswith(search.lower()):
                found[entry] = _folder(entry) if deeper else _row(entry, made)
        return [found[entry] for entry in sorted(found)]


def _folder(name: str) -> dict[str, object]:
    return {"name": name, "id": None, "updated_at": None, "created_at": None, "metadata": None}


def _row(name: str, made: Object) -> dict[str, object]:
    return {
        "name": name,
        "id": made.id,
        "updated_at": stamp(made.updated_at),
        "created_at": stamp(made.created_at),
        "metadata": {"size": made.size, "eTag": made.etag, "mimetype": made.mime},
    }


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
