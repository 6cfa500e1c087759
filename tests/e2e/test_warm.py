"""The next job of a session on the same worker: nothing is fetched, with the real Claude Code."""

import pytest
from tests.e2e.service import Start, lines

pytestmark = pytest.mark.e2e


async def test_a_follow_up_starts_warm_and_finds_files_and_conversation(start: Start) -> None:
    service = await start(settings={"OVERNIGHT_CONCURRENCY": "1"})
    first = await service.submit(
        lines(
            "bash mkdir node_modules && echo x > node_modules/x && echo a > a.txt",
            "answer built",
            words="Build it.",
        )
    )
    await service.finished(first["job_id"])
    second = await service.submit(
        lines("bash cat a.txt > b.txt; ls > list.txt", "recall", words="Look."),
        session_id=first["session_id"],
    )
    done = await service.finished(second["job_id"])
    assert (done["status"], "Build it." in done["result"]) == ("completed", True)
    [ready] = [e["data"] for e in await service.events(second["job_id"]) if e["type"] == "workspace.ready"]
    assert (ready["source"], ready["fetched_bytes"]) == ("warm", 0)
    [saved] = [e["data"] for e in await service.events(second["job_id"]) if e["type"] == "workspace.saved"]
    assert saved["reused_entries"] >= 1
    files = await service.call("GET", f"/sessions/{first['session_id']}/files/list.txt")
    assert files.text.split() == ["a.txt", "b.txt", "list.txt"]
