"""A session that starts from a zip of its owner: all of it is there afterwards, or nothing."""

import zipfile
from typing import Any

import pytest

from overnight.archive import UPLOAD
from overnight.domain.archive_names import archives_of
from overnight.domain.errors import SessionExists
from overnight.domain.job import Session
from overnight.flows.sessions import start_from


async def upload(world: Any, session_id: str) -> Session:
    source = world.data / "mine.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a.txt", "a")
    return await start_from(
        source,
        session_id,
        owner="",
        profile=UPLOAD,
        store=world.store,
        archives=world.archives,
        clock=world.clock,
        entropy=world.entropy,
    )


async def test_a_session_whose_alias_cannot_be_published_is_there(world: Any) -> None:
    async def away(*_names: str) -> None:
        raise OSError("the store is away")

    world.archives.publish = away
    session = await upload(world, world.entropy.session_id())
    assert (await world.store.session(session.session_id)).archive == session.archive


async def test_a_second_upload_leaves_nothing_behind(world: Any) -> None:
    session = await upload(world, world.entropy.session_id())
    with pytest.raises(SessionExists):
        await upload(world, session.session_id)
    kept = await world.archives.listing(archives_of(session.session_id))
    assert [archive.name for archive in kept] == [session.archive_name]
