"""Calls about sessions: look, download, start one from a zip, erase."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from overnight.api.access import caller_of, session_of
from overnight.api.bodies import check_body, check_length, counted, read_query
from overnight.api.parts import ApiParts
from overnight.api.problems import Code, Problem
from overnight.api.ranges import asked_range
from overnight.api.requests import SessionsQuery, refuse_without_room, session_id_of
from overnight.api.streams import Stream, in_pieces
from overnight.api.views import Erasing, FileList, SessionPage, answer, file_view, session_view
from overnight.archive import RESERVED, Entry, EntryMissing, Listing
from overnight.domain.errors import SessionExists, SessionNotFound
from overnight.domain.job import ArchiveRef
from overnight.flows.sessions import entire, erase, listed, opened, scratch_file, start_from, stretch
from overnight.ports import ArchiveMissing

CHUNK = 256 * 1024

UNTRUSTED = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",
}
"""For bytes that an agent or a stranger made: a browser saves them and never shows them (facts: security 8)."""


async def listing(parts: ApiParts, request: Request) -> Response:
    """Sessions, newest first."""
    query = read_query(request, SessionsQuery)
    try:
        page = await parts.index.sessions(
            owner=caller_of(request).lists, limit=query.limit, before=query.cursor
        )
    except ValueError:
        raise Problem(Code.INVALID_CURSOR) from None
    return answer(SessionPage([session_view(row) for row in page.rows], page.next))


async def session(parts: ApiParts, request: Request) -> Response:
    """A session as it is now."""
    return answer(session_view(await session_of(parts, request)))


async def archive(parts: ApiParts, request: Request) -> ASGIApp:
    """The session's current archive: its workspace and its conversation, as a zip that any tool opens.

    A download that broke off can be gone on with: `Range` with one range, and `If-Range` with the ETag, so that no
    other archive is taken for the rest of this one.
    """
    current = await _archive_of(parts, request)
    etag = f'"{current.sha256}"'
    headers = UNTRUSTED | {"ETag": etag, "Accept-Ranges": "bytes"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    headers |= {
        "Content-Type": "application/zip",
        "Content-Disposition": f'attachment; filename="{session_id_of(request)}.zip"',
        "Content-Length": str(current.size),
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    part = asked_range(request.headers, etag, current.size)
    if part is None:
        return await _sent(entire(current, archives=parts.archives), headers)
    headers["Content-Length"] = str(len(part))
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{current.size}"
    pieces = stretch(current, part.start, part.stop, archives=parts.archives)
    return await _sent(pieces, headers, status=206)


async def _sent(
    pieces: AsyncGenerator[bytes, None], headers: Mapping[str, str], *, status: int = 200
) -> ASGIApp:
    """The first piece is there before the answer begins: what is missing is said by a status."""
    try:
        first = await anext(pieces)
    except ArchiveMissing:
        raise Problem(Code.ARCHIVE_NOT_FOUND) from None
    return Stream(_in_chunks(first, pieces), headers, status=status)


async def _in_chunks(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Small ones: what a slow client has not taken yet lies in the server's memory a second time."""
    piece: bytes | None = first
    del first  # or it is held until the end
    async with aclosing(rest):
        while piece is not None:
            for at in range(0, len(piece), CHUNK):
                yield piece[at : at + CHUNK]
            piece = await anext(rest, None)


async def files(parts: ApiParts, request: Request) -> Response:
    """What the session's archive holds, apart from overnight's own notes."""
    current = await _archive_of(parts, request)
    try:
        held = await listed(current, archives=parts.archives)
    except ArchiveMissing:
        raise Problem(Code.ARCHIVE_NOT_FOUND) from None
    return await asyncio.to_thread(_file_list, held)  # of up to a million entries


async def file(parts: ApiParts, request: Request) -> ASGIApp:
    """One regular file of the session's archive, by its exact name in the listing. Links are not followed."""
    current = await _archive_of(parts, request)
    name = _file_name(request)
    if _ours(name):
        raise Problem(Code.FILE_NOT_FOUND)
    try:
        content = await opened(
            current, name, archives=parts.archives, scratch=parts.scratch, room=parts.spare_bytes()
        )
    except ArchiveMissing:
        raise Problem(Code.ARCHIVE_NOT_FOUND) from None
    except EntryMissing:
        raise Problem(Code.FILE_NOT_FOUND) from None
    headers = UNTRUSTED | {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
        "Content-Length": str(content.size),
    }
    return Stream(in_pieces(iter(content)), headers, source=content)


async def upload(parts: ApiParts, request: Request) -> Response:
    """Start a session from a zip of yours; the next job with this session_id works in it.

    Choose a random UUID. The zip is judged before anything of it is kept: plain names and relative links that
    stay inside, no special files, and no more files or bytes than this service allows.
    """
    session_id = session_id_of(request)
    check_body(request, "application/zip")
    check_length(request, parts.limits.max_archive_bytes)
    refuse_without_room(parts)
    await _refuse_known(parts, request)
    async with scratch_file(parts.scratch) as path:
        await _save(parts, request, path)
        started = await start_from(
            path,
            session_id,
            owner=caller_of(request).owner,
            profile=parts.limits.uploads,
            store=parts.store,
            archives=parts.archives,
            clock=parts.clock,
            entropy=parts.entropy,
        )
    return answer(session_view(started), 201, {"Location": f"/sessions/{session_id}"})


async def delete(parts: ApiParts, request: Request) -> Response:
    """Erase a session: its jobs, events, webhooks, files and archives. It cannot be undone.

    If the archive store cannot delete something now, the answer is 202: the session is gone for every caller, and
    the service goes on until nothing of it is left.
    """
    session_id = session_id_of(request)
    gone = await erase(
        session_id,
        caller=caller_of(request),
        store=parts.store,
        archives=parts.archives,
        kept=parts.kept,
        clock=parts.clock,
    )
    return Response(status_code=204) if gone else answer(Erasing(session_id=session_id), 202)


async def _archive_of(parts: ApiParts, request: Request) -> ArchiveRef:
    current = (await session_of(parts, request)).archive
    if current is None:
        raise Problem(Code.ARCHIVE_NOT_FOUND)
    return current


async def _refuse_known(parts: ApiParts, request: Request) -> None:
    """Spare the caller a long upload; the rule itself stands in the flow.

    One of another owner is refused in the same words (docs/decisions/0032).
    """
    try:
        await parts.store.session(session_id_of(request))
    except SessionNotFound:
        return
    raise SessionExists("the session is there already")


async def _save(parts: ApiParts, request: Request, path: Path) -> None:
    limits = parts.limits
    target = await asyncio.to_thread(path.open, "wb")
    try:
        async for chunk in counted(request, limit=limits.max_archive_bytes, seconds=limits.body_seconds):
            refuse_without_room(parts)
            await asyncio.to_thread(target.write, chunk)
    finally:
        await asyncio.to_thread(target.close)


def _file_name(request: Request) -> str:
    """Taken from the path itself: the router's pattern would drop a newline at its end."""
    path: str = request.scope["path"]
    return path.partition(f"/{request.path_params['session_id']}/files/")[2]


def _file_list(held: Listing) -> Response:
    entries = sorted((entry for entry in held.entries if not _ours(entry.name)), key=_by_name)
    return answer(FileList([file_view(entry) for entry in entries]))


def _ours(name: str) -> bool:
    return name.partition("/")[0] == RESERVED


def _by_name(entry: Entry) -> str:
    return entry.name
