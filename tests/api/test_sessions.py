"""Calls about sessions: look, download, upload, erase."""

import hashlib
import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

Pack = Callable[[dict[str, bytes]], bytes]
ZIP = {"Content-Type": "application/zip"}
FILES = {
    "a.txt": b"alpha",
    "dir/b é.bin": b"\x00\x01",
    ".overnight/session.json": b"{}",
    ".overnight/transcript/x.jsonl": b"{}",
}


def same(service: Any) -> dict[str, Any]:
    """What another service needs to have the same sessions."""
    parts = service.parts
    return {"store": parts.store, "index": parts.index, "archives": parts.archives}


@pytest.fixture
async def session_id(service: Any, client: httpx.AsyncClient) -> str:
    job = (await client.post("/execute", json={"prompt": "p"})).json()
    await service.run(job["job_id"], files=FILES)
    return str(job["session_id"])


async def test_a_session_is_shown_and_listed(client: Any, session_id: str) -> None:
    shown = (await client.get(f"/sessions/{session_id}")).json()
    listed = (await client.get("/sessions?limit=1")).json()
    assert listed == {"data": [shown], "next_cursor": None}
    assert (shown["jobs"], shown["line"], shown["cost_usd"]) == (1, [], 0.25)
    assert set(shown["archive"]) == {"name", "size", "sha256", "origin"}


async def test_pages_of_sessions(client: Any) -> None:
    made = [(await client.post("/execute", json={"prompt": "p"})).json()["session_id"] for _ in range(3)]
    first = (await client.get("/sessions?limit=2")).json()
    second = (await client.get("/sessions", params={"cursor": first["next_cursor"]})).json()
    assert {row["session_id"] for row in first["data"] + second["data"]} == set(made)
    for cursor in ("x", "nan:" + made[0], "\x00"):
        answer = await client.get("/sessions", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


class TestDownload:
    async def test_the_archive_comes_whole_and_as_a_download(
        self, service: Any, client: Any, session_id: str
    ) -> None:
        answer = await client.get(f"/sessions/{session_id}/archive")
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["content-disposition"] == f'attachment; filename="{session_id}.zip"'
        assert int(answer.headers["content-length"]) == len(answer.content)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert set(archive.namelist()) == set(FILES)
        assert service.left_in_scratch() == []

    async def test_it_needs_no_room_on_the_disk(
        self, service: Any, service_with: Callable[..., Any], session_id: str, tmp_path: Path
    ) -> None:
        """A copy would lie there for as long as a slow client reads."""
        full = service_with(**same(service), scratch=tmp_path / "nowhere", free_bytes=lambda: 0)
        async with full.client() as client:
            answer = await client.get(f"/sessions/{session_id}/archive")
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'

    async def test_a_file_that_there_is_no_room_for_is_refused(
        self, service: Any, service_with: Callable[..., Any], session_id: str
    ) -> None:
        full = service_with(**same(service), free_bytes=lambda: 3)
        async with full.client() as client:
            answer = await client.get(f"/sessions/{session_id}/files/a.txt")
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        assert full.left_in_scratch() == []

    async def test_one_that_the_store_has_damaged_is_refused(
        self, service: Any, client: Any, session_id: str
    ) -> None:
        service.parts.archives.damages = True
        answer = await client.get(f"/sessions/{session_id}/archive")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")

    async def test_a_long_one_that_the_store_has_damaged_breaks_off(self, service: Any, url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            job = (await client.post("/execute", json={"prompt": "p"})).json()
            await service.run(job["job_id"], files={"a": bytes(9 << 20)})
            service.parts.archives.damages = True
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"/sessions/{job['session_id']}/archive")

    async def test_the_etag_saves_a_download(self, client: Any, session_id: str) -> None:
        url = f"/sessions/{session_id}/archive"
        head = await client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        shown = (await client.get(f"/sessions/{session_id}")).json()["archive"]
        assert head.headers["etag"] == f'"{shown["sha256"]}"'
        same = await client.get(url, headers={"If-None-Match": head.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")

    async def test_a_download_that_broke_off_is_gone_on_with(
        self, service: Any, client: Any, session_id: str
    ) -> None:
        url = f"/sessions/{session_id}/archive"
        whole = await client.get(url)
        assert whole.headers["accept-ranges"] == "bytes"
        headers = {"Range": "bytes=10-", "If-Range": whole.headers["etag"]}
        rest = await client.get(url, headers=headers)
        size = len(whole.content)
        assert (rest.status_code, rest.content) == (206, whole.content[10:])
        assert rest.headers["content-range"] == f"bytes 10-{size - 1}/{size}"
        assert rest.headers["content-length"] == str(size - 10)
        assert rest.headers["etag"] == whole.headers["etag"]
        other = await client.get(url, headers=headers | {"If-Range": '"other"'})
        assert (other.status_code, other.content) == (200, whole.content)
        assert service.left_in_scratch() == []

    @pytest.mark.parametrize(
        ("asked", "start", "stop"),
        [("bytes=0-0", 0, 1), ("bytes=3-5", 3, 6), ("bytes=-7", -7, None), ("bytes=2-99999999", 2, None)],
    )
    async def test_parts_of_the_archive(
        self, client: Any, session_id: str, asked: str, start: int, stop: int | None
    ) -> None:
        url = f"/sessions/{session_id}/archive"
        whole = (await client.get(url)).content
        part = await client.get(url, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole[start:stop])

    @pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-", "x"])
    async def test_what_is_no_single_range_gets_the_whole(
        self, client: Any, session_id: str, asked: str
    ) -> None:
        url = f"/sessions/{session_id}/archive"
        answer = await client.get(url, headers={"Range": asked})
        assert (answer.status_code, "content-range" in answer.headers) == (200, False)

    @pytest.mark.parametrize("behind", ["{size}-", "-0", "99999999-"])
    async def test_a_part_behind_the_end_is_refused(self, client: Any, session_id: str, behind: str) -> None:
        url = f"/sessions/{session_id}/archive"
        size = len((await client.get(url)).content)
        answer = await client.get(url, headers={"Range": f"bytes={behind.format(size=size)}"})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{size}"

    async def test_files_are_listed_without_our_own(self, service: Any, client: Any, session_id: str) -> None:
        listed = (await client.get(f"/sessions/{session_id}/files")).json()["data"]
        assert [(row["name"], row["kind"], row["size"]) for row in listed] == [
            ("a.txt", "file", 5),
            ("dir/b é.bin", "file", 2),
        ]
        assert service.left_in_scratch() == []

    async def test_a_file_is_never_shown_by_a_browser(
        self, service: Any, client: Any, session_id: str
    ) -> None:
        answer = await client.get(f"/sessions/{session_id}/files/dir/b%20%C3%A9.bin")
        assert answer.content == b"\x00\x01"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert any("sandbox" in policy for policy in answer.headers.get_list("content-security-policy"))
        assert service.left_in_scratch() == []

    @pytest.mark.parametrize(
        "path",
        [
            "b.txt",
            "dir",
            "dir/",
            "A.TXT",
            "%2e%2e/%2e%2e/etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "%2fetc/passwd",
            "%2e/a.txt",
            "a.txt%00",
            "a.txt%0a",
            ".overnight/session.json",
            ".overnight",
            "%FF",
        ],
    )
    async def test_any_other_name_is_not_there(self, client: Any, session_id: str, path: str) -> None:
        answer = await client.get(f"/sessions/{session_id}/files/{path}")
        assert answer.status_code == 404

    async def test_a_session_without_an_archive(self, client: Any) -> None:
        session_id = (await client.post("/execute", json={"prompt": "p"})).json()["session_id"]
        for path in ("archive", "files", "files/a.txt"):
            answer = await client.get(f"/sessions/{session_id}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "archive_not_found")


class TestUpload:
    async def test_a_zip_starts_a_session(self, service: Any, client: Any, pack: Pack) -> None:
        session_id = str(uuid4())
        zipped = pack({"main.py": b"print()"})

        answer = await client.put(f"/sessions/{session_id}/archive", content=zipped, headers=ZIP)

        assert answer.status_code == 201
        assert answer.headers["location"] == f"/sessions/{session_id}"
        assert answer.json()["archive"]["origin"] == "upload"
        assert (await client.get(f"/sessions/{session_id}/archive")).content == zipped
        listed = await service.parts.archives.listing("claude-code/")
        assert f"claude-code/{session_id}.zip" in [archive.name for archive in listed]
        job = await client.post("/execute", json={"prompt": "p", "session_id": session_id})
        assert job.status_code == 202
        assert service.left_in_scratch() == []

    async def test_a_session_that_is_there_is_not_replaced(
        self, service: Any, client: Any, pack: Pack, session_id: str
    ) -> None:
        before = await service.parts.archives.listing("claude-code/")
        answer = await client.put(f"/sessions/{session_id}/archive", content=pack({"x": b""}), headers=ZIP)
        assert (answer.status_code, answer.json()["code"]) == (409, "session_exists")
        assert await service.parts.archives.listing("claude-code/") == before

    @pytest.mark.parametrize("name", ["../escape", "/absolute", "a/../b", "a\x00b"])
    async def test_a_zip_that_reaches_outside_leaves_nothing(
        self, service: Any, client: Any, pack: Pack, name: str
    ) -> None:
        session_id = str(uuid4())
        zipped = pack({"xxxxxxxxxx"[: len(name)]: b"x"}).replace(b"x" * len(name), name.encode())
        answer = await client.put(f"/sessions/{session_id}/archive", content=zipped, headers=ZIP)
        assert (answer.status_code, answer.json()["code"]) == (422, "archive_refused")
        assert (await client.get(f"/sessions/{session_id}")).status_code == 404
        assert await service.parts.archives.listing("claude-code/") == []
        assert service.left_in_scratch() == []

    async def test_what_is_no_zip_is_refused(self, service: Any, client: Any) -> None:
        for content in (b"", b"not a zip", b"PK\x05\x06"):
            answer = await client.put(f"/sessions/{uuid4()}/archive", content=content, headers=ZIP)
            assert (answer.status_code, answer.json()["code"]) == (422, "archive_refused")
        assert service.left_in_scratch() == []

    async def test_a_link_that_leads_outside_is_refused(self, client: Any) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            link = zipfile.ZipInfo("link")
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        answer = await client.put(f"/sessions/{uuid4()}/archive", content=buffer.getvalue(), headers=ZIP)
        assert answer.json()["code"] == "archive_refused"
        assert "passwd" not in answer.text

    @pytest.mark.parametrize("declared", [True, False])
    async def test_one_that_is_too_large_is_refused_while_it_streams(
        self, service: Any, url: str, declared: bool
    ) -> None:
        async def endless() -> Any:
            for _ in range(64):
                yield b"x" * 65536

        content: Any = b"x" * (2 << 20) if declared else endless()
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.put(f"/sessions/{uuid4()}/archive", content=content, headers=ZIP)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert service.left_in_scratch() == []

    async def test_another_media_type_is_refused(self, client: Any, pack: Pack) -> None:
        for headers in ({}, {"Content-Type": "application/json"}, ZIP | {"Content-Encoding": "gzip"}):
            answer = await client.put(f"/sessions/{uuid4()}/archive", content=pack({}), headers=headers)
            assert answer.status_code == 415


class TestDelete:
    async def test_nothing_is_left(self, service: Any, client: Any, session_id: str) -> None:
        (job,) = (await client.get(f"/jobs?session_id={session_id}")).json()["data"]

        assert (await client.delete(f"/sessions/{session_id}")).status_code == 204

        assert (await client.delete(f"/sessions/{session_id}")).status_code == 404
        for path in (f"/sessions/{session_id}", f"/sessions/{session_id}/archive", f"/jobs/{job['job_id']}"):
            assert (await client.get(path)).status_code == 404
        assert await service.parts.archives.listing("claude-code/") == []
        assert (await client.get("/jobs")).json()["data"] == []

    async def test_what_the_store_does_not_delete_is_said_and_seen_by_nobody(
        self, service: Any, client: Any, session_id: str
    ) -> None:
        service.parts.archives.refuses = True
        answer = await client.delete(f"/sessions/{session_id}")
        assert (answer.status_code, answer.json()["session_id"]) == (202, session_id)
        assert (await client.get(f"/sessions/{session_id}")).status_code == 404
        assert (await client.get("/sessions")).json()["data"] == []

        service.parts.archives.refuses = False
        assert (await client.delete(f"/sessions/{session_id}")).status_code == 204
        assert await service.parts.archives.listing("claude-code/") == []

    async def test_a_session_at_work_is_kept(self, client: Any, session_id: str) -> None:
        await client.post("/execute", json={"prompt": "p", "session_id": session_id})
        answer = await client.delete(f"/sessions/{session_id}")
        assert (answer.status_code, answer.json()["code"]) == (409, "session_busy")
        assert (await client.get(f"/sessions/{session_id}/archive")).status_code == 200
