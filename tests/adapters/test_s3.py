"""What a bucket answers, and what it must never be taken for: a missing archive is a new session."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.s3_server import Behind, answering, bucket_at, new_bucket, s3_server, uploads_under_way

from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.s3 import PART, S3Archives, s3_archives
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.flows.canary import try_store
from overnight.flows.growth import GrowingFile
from overnight.ports import ArchiveConflict, ArchiveDenied, ArchiveMissing, Growth, StoredArchive
from overnight.settings import SettingsError, load
from overnight.wiring.archives import opened_archives, try_archives

NAME, ALIAS = "claude-code/session/job.1.zip", "claude-code/session.zip"
KEY = f"team/overnight/{NAME}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(url: str) -> str:
    name = SystemEntropy().session_id()
    new_bucket(url, name)
    return name


@pytest.fixture
def store(url: str, bucket: str) -> S3Archives:
    return s3_archives(bucket_at(url, bucket))


@pytest.fixture
def behind(url: str, bucket: str) -> Behind:
    return Behind(url, bucket)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zip"
    path.write_bytes(b"content")
    return path


def calls(store: S3Archives, source: Path, target: Path) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "put": lambda: store.put(NAME, source),
        "fetch": lambda: store.fetch(NAME, target),
        "publish": lambda: store.publish(NAME, ALIAS),
        "delete": lambda: store.delete(NAME),
        "listing": lambda: store.listing("claude-code/"),
    }


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


CALLS = ["put", "fetch", "publish", "delete", "listing"]


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


class TestWhatAnAnswerMeans:
    @pytest.mark.parametrize("call", CALLS)
    async def test_a_wrong_bucket_is_no_missing_archive(
        self, call: str, url: str, source: Path, tmp_path: Path
    ) -> None:
        store = s3_archives(bucket_at(url, "no-such-bucket"))
        with pytest.raises(ArchiveDenied, match="OVERNIGHT_S3_BUCKET"):
            await calls(store, source, tmp_path / "t")[call]()

    @pytest.mark.parametrize("call", ["fetch", "publish", "delete", "listing"])
    @pytest.mark.parametrize(
        ("status", "code", "remedy"),
        [
            (403, "AccessDenied", "s3:GetObject"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        ],
    )
    async def test_a_refusal_says_what_to_do(
        self, call: str, status: int, code: str, remedy: str, source: Path, tmp_path: Path
    ) -> None:
        with answering(status, error(code)) as url:
            store = s3_archives(bucket_at(url, "bucket"))
            with pytest.raises(ArchiveDenied, match=remedy):
                await calls(store, source, tmp_path / "t")[call]()

    async def test_a_refused_put_is_denied_although_its_first_look_gets_no_reason(self, source: Path) -> None:
        with answering(403, error("AccessDenied")) as url, pytest.raises(ArchiveDenied, match="s3:PutObject"):
            await s3_archives(bucket_at(url, "bucket")).put(NAME, source)

    @pytest.mark.parametrize("call", ["fetch", "publish"])
    @pytest.mark.parametrize(
        ("status", "body", "said"),
        [
            (404, b"<html>Not Found</html>", "404"),
            (404, b"", "404"),
            (503, error("SlowDown"), "SlowDown"),
        ],
    )
    async def test_anything_less_sure_is_another_error(
        self, call: str, status: int, body: bytes, said: str, source: Path, tmp_path: Path
    ) -> None:
        with answering(status, body) as url:
            store = s3_archives(bucket_at(url, "bucket"))
            with pytest.raises(OSError, match=f"answered {said}; it can be tried again"):
                await calls(store, source, tmp_path / "t")[call]()

    @pytest.mark.parametrize("call", CALLS)
    async def test_nobody_there_is_an_error(self, call: str, source: Path, tmp_path: Path) -> None:
        with answering(200, b"") as url:
            pass
        with pytest.raises(OSError, match="could not be reached"):
            await calls(s3_archives(bucket_at(url, "bucket")), source, tmp_path / "t")[call]()

    async def test_secrets_are_in_no_error(self, source: Path, tmp_path: Path) -> None:
        with answering(403, error("AccessDenied")) as url:
            store = s3_archives(bucket_at(url, "bucket"))
            with pytest.raises(ArchiveDenied) as caught:
                await store.fetch(NAME, tmp_path / "t")
        assert caught.value.__cause__ is None
        assert "secret" not in str(caught.value)


class TestWholeOrNotAtAll:
    async def test_a_download_that_breaks_off_leaves_nothing(self, tmp_path: Path) -> None:
        with answering(200, b"half", claimed=8) as url:
            store = s3_archives(bucket_at(url, "bucket"))
            with pytest.raises(OSError, match="broke off"):
                await store.fetch(NAME, tmp_path / "t")
        assert left_in(tmp_path) == []

    async def test_bytes_that_changed_in_the_bucket_are_noticed(
        self, store: S3Archives, behind: Behind, source: Path, tmp_path: Path
    ) -> None:
        await store.put(NAME, source)
        content, metadata = await behind.read(KEY)
        assert content == b"content"
        await behind.write(KEY, b"c0ntent", metadata)
        with pytest.raises(OSError, match="checksum"):
            await store.fetch(NAME, tmp_path / "t")
        assert not (tmp_path / "t").exists()

    @asynccontextmanager
    async def putting(
        self, store: S3Archives, url: str, bucket: str, source: Path, growing: GrowingFile
    ) -> AsyncIterator[asyncio.Task[StoredArchive]]:
        """Under way, with all parts but the last there to be sent; none is left afterwards."""
        await asyncio.to_thread(source.write_bytes, bytes(3 * PART))
        growing.wrote(3 * PART)
        putting = asyncio.create_task(store.put(NAME, source, growth=growing))
        while not await asyncio.to_thread(uploads_under_way, url, bucket):
            assert not putting.done()
        yield putting
        assert uploads_under_way(url, bucket) == 0
        assert await store.listing("") == []

    async def test_a_file_whose_writing_breaks_leaves_no_parts(
        self, store: S3Archives, url: str, bucket: str, source: Path
    ) -> None:
        growing = GrowingFile()
        async with self.putting(store, url, bucket, source, growing) as putting:
            growing.fail(RuntimeError("packing broke"))
            with pytest.raises(RuntimeError, match="packing broke"):
                await putting

    @pytest.mark.parametrize("packed", [True, False])
    async def test_a_cancelled_put_leaves_no_parts(
        self, store: S3Archives, url: str, bucket: str, source: Path, packed: bool
    ) -> None:
        growing = GrowingFile()
        async with self.putting(store, url, bucket, source, growing) as putting:
            if packed:
                with source.open("ab") as file:
                    file.write(bytes(PART))
                growing.finish(4 * PART)
            else:
                growing.fail(RuntimeError("packing was called off"))
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting


class TestLargeOnes:
    @pytest.fixture
    def large(self, source: Path) -> Path:
        source.write_bytes(os.urandom(PART + 1))
        return source

    @staticmethod
    def grown(path: Path) -> Growth:
        growing = GrowingFile()
        growing.finish(path.stat().st_size)
        return growing

    async def test_the_same_bytes_again_are_fine_and_others_are_a_conflict(
        self, store: S3Archives, large: Path, tmp_path: Path
    ) -> None:
        first = await store.put(NAME, large)
        assert await store.put(NAME, large) == first
        other = tmp_path / "other.zip"
        other.write_bytes(bytes(PART + 1))
        with pytest.raises(ArchiveConflict):
            await store.put(NAME, other)
        assert await store.fetch(NAME, tmp_path / "t") == first

    async def test_one_whose_checksum_was_unknown_at_first_is_compared_by_its_bytes(
        self, store: S3Archives, behind: Behind, large: Path, tmp_path: Path
    ) -> None:
        first = await store.put(NAME, large, growth=_Half(large))
        assert "sha256" not in (await behind.read(KEY))[1]
        assert await store.put(NAME, large) == first
        other = tmp_path / "other.zip"
        await asyncio.to_thread(other.write_bytes, bytes(PART + 1))
        with pytest.raises(ArchiveConflict):
            await store.put(NAME, other)

    async def test_the_alias_shows_it(self, store: S3Archives, large: Path, tmp_path: Path) -> None:
        put = await store.put(NAME, large)
        await store.publish(NAME, ALIAS)
        shown = await store.fetch(ALIAS, tmp_path / "t")
        assert shown == StoredArchive(name=ALIAS, size=put.size, sha256=put.sha256)


class _Half:
    """Says at first that more than one part is there, and only then that it is all."""

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size

    async def beyond(self, size: int) -> tuple[int, bool]:
        return self._size, size >= self._size


class Overwriting(MemoryArchives):
    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        await self.delete(name)
        return await super().put(name, source, growth=growth)


class TestCanary:
    async def test_a_good_store_passes_and_nothing_stays(self, store: S3Archives) -> None:
        await try_store(store, SystemEntropy())
        assert await store.listing("") == []

    async def test_one_that_overwrites_does_not_pass(self) -> None:
        archives = Overwriting(SystemClock())
        with pytest.raises(OSError, match="overwritten"):
            await try_store(archives, SystemEntropy())
        assert await archives.listing("") == []


class TestSettings:
    @pytest.fixture(autouse=True)
    def key(self, url: str, tmp_path: Path) -> Iterator[None]:
        before = dict(os.environ)
        os.environ |= {
            "OVERNIGHT_S3_ENDPOINT": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "OVERNIGHT_DATA": str(tmp_path),
        }
        yield
        os.environ.clear()
        os.environ.update(before)

    async def test_a_bucket_is_enough_to_choose_it(self, bucket: str, source: Path) -> None:
        settings = load(s3_bucket=bucket)
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ
        async with opened_archives(settings) as archives:
            assert isinstance(archives, S3Archives)
            await archives.put(NAME, source)
        assert (await try_archives(settings)).finding == f"S3 bucket {bucket}"

    async def test_a_wrong_bucket_starts_nothing(self) -> None:
        settings = load(s3_bucket="no-such-bucket")
        with pytest.raises(SettingsError, match="Make the bucket"):
            async with opened_archives(settings):
                pass
        tried = await try_archives(settings)
        assert (tried.refused, tried.sql) == (True, None)

    async def test_half_a_key_starts_nothing(self) -> None:
        del os.environ["AWS_SECRET_ACCESS_KEY"]
        with pytest.raises(SettingsError, match="set both or neither"):
            async with opened_archives(load(s3_bucket="bucket")):
                pass

    async def test_s3_without_a_bucket_starts_nothing(self) -> None:
        with pytest.raises(SettingsError, match="OVERNIGHT_S3_BUCKET"):
            async with opened_archives(load(archives="s3")):
                pass


async def test_a_missing_archive_is_said(store: S3Archives, tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing):
        await store.fetch(NAME, tmp_path / "t")
