"""What an agent plants in its workspace, and what a stranger puts into a zip, reaches nothing outside."""

import asyncio
import io
import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

FOREIGN = b"foreign-bytes-" + b"51c0ffee" * 8
TRAPS = """
import os, socket, pathlib
key = {key!r}
for name, target in dict(key=key, shadow="/etc/shadow", memory="/proc/self/environ", up="../../..").items():
    os.symlink(target, name)
os.symlink(os.path.dirname(key), "folder")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
for name, source in dict(hard_key=key, hard_shadow="/etc/shadow").items():
    try:
        os.link(source, name)
    except OSError as refused:
        pathlib.Path(name + ".refused").write_text(type(refused).__name__)
pathlib.Path("mine.txt").write_text("mine")
"""


def all_bytes(archive: zipfile.ZipFile) -> bytes:
    return b"".join(archive.read(entry) for entry in archive.infolist())


async def test_planted_links_yield_no_foreign_bytes(start: Any, tmp_path: Path) -> None:
    key = tmp_path / "service.key"
    key.write_bytes(FOREIGN)
    service = await start()
    script = TRAPS.format(key=str(key)).replace("\n", "\\n")
    job = await service.submit(
        f"rehearsal: write traps.py {script}\nrehearsal: bash python3 traps.py\nrehearsal: answer planted"
    )
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"]) == ("completed", "planted")
    answer = await service.call("GET", f"/sessions/{job['session_id']}/archive")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.read("mine.txt") == b"mine"
    assert FOREIGN not in all_bytes(archive)
    assert not any(name.startswith(("folder/", "up/")) for name in archive.namelist())
    for link in ("key", "shadow", "memory", "up", "folder"):
        assert stat.S_ISLNK(archive.getinfo(link).external_attr >> 16), link
    [saved] = [e["data"] for e in await service.events(job["job_id"]) if e["type"] == "workspace.saved"]
    special = {left["path"] for left in saved["left_out"] if left["reason"].startswith("not a file")}
    assert special == {"pipe", "socket"}
    again = await service.submit("rehearsal: bash cat mine.txt", session_id=job["session_id"])
    assert (await service.finished(again["job_id"]))["status"] == "completed"


def zipped(*entries: tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # twin names: that is the point
        for name, content, mode in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr, info.create_system = name, mode << 16, 3
            archive.writestr(info, content, method)
    return buffer.getvalue()


def plain(*names: str, content: bytes = b"x") -> bytes:
    return zipped(*((name, content, stat.S_IFREG | 0o644) for name in names))


def overlapping() -> bytes:
    raw = bytearray(plain("a", "b", content=b"x" * 100))
    at = raw.rindex(b"PK\1\2") + 42
    raw[at : at + 4] = struct.pack("<L", 0)
    return bytes(raw)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "bomb": lambda: plain("zeros", content=bytes(80 << 20)),
    "overlap": overlapping,
    "slip": lambda: plain("fine", "../../slipped"),
    "absolute": lambda: plain("/tmp/slipped"),
    "twins": lambda: plain("same", "same"),
    "case twins": lambda: plain("README", "readme"),
    "accents": lambda: plain("caf\u00e9", "cafe\u0301"),
    "NUL": lambda: plain("nul\0cut"),
    "fifo": lambda: zipped(("pipe", b"", stat.S_IFIFO | 0o666)),
    "device": lambda: zipped(("disk", b"", stat.S_IFBLK | 0o666)),
    "link out": lambda: zipped(("key", b"/etc/shadow", stat.S_IFLNK | 0o777)),
    "file below link": lambda: zipped(("a", b"/etc", stat.S_IFLNK | 0o777), ("a/x", b"x", stat.S_IFREG | 0o644)),
    "100,000 entries": lambda: plain(*(f"f{n}" for n in range(100_000)), content=b""),
    "no zip": lambda: b"PK\3\4" + b"nothing" * 100,
}  # fmt: skip


async def test_hostile_uploads_are_refused_and_leave_nothing(start: Any) -> None:
    service = await start()

    def kept() -> list[str]:
        scratch, archives = service.data / "scratch", service.data / "archives"
        return [str(path) for place in (scratch, archives) for path in place.rglob("*") if path.is_file()]

    for number, (what, make) in enumerate(HOSTILE.items()):
        session_id = f"00000000-0000-4000-8000-{number:012x}"
        answer = await service.call(
            "PUT",
            f"/sessions/{session_id}/archive",
            content=await asyncio.to_thread(make),
            headers={"content-type": "application/zip"},
        )
        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY, (what, answer.text)
        assert answer.json()["code"] == "archive_refused", what
        assert "Nothing was" in answer.json()["detail"], (what, answer.json()["detail"])
        assert (await service.call("GET", f"/sessions/{session_id}")).status_code == HTTPStatus.NOT_FOUND
        assert kept() == [], what


async def test_the_caps_of_uploads_are_settings(start: Any) -> None:
    caps = {"ENTRIES": "3", "FILE_BYTES": "10", "CONTENT_BYTES": "15"}
    service = await start(settings={f"OVERNIGHT_UPLOAD_MAX_{name}": value for name, value in caps.items()})
    over = (plain("a", "b", "c", "d"), plain("a", content=b"x" * 11), plain("a", "b", content=b"x" * 8))
    for number, body in enumerate((*over, plain("a", content=b"x" * 10))):
        answer = await service.call(
            "PUT",
            f"/sessions/00000000-0000-4000-8000-{number:012x}/archive",
            content=body,
            headers={"content-type": "application/zip"},
        )
        expected = HTTPStatus.UNPROCESSABLE_ENTITY if number < len(over) else HTTPStatus.CREATED
        assert answer.status_code == expected, json.dumps(answer.json())
