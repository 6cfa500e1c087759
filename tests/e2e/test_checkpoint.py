"""A machine is lost in mid-run: another goes on from the last checkpoint, with the real Claude Code."""

import contextlib
import shutil
import zipfile

import pytest
from tests.e2e.service import Service, Start, archive_of, lines
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

OFTEN = {"OVERNIGHT_CHECKPOINT_SECONDS": "0.5"}


async def checkpoint_with(service: Service, job_id: str, text: bytes) -> bool | None:
    """Whether the newest checkpoint knows of the step: Claude Code writes its transcript a moment after the fact."""
    saved = [e["data"]["archive"] for e in await service.events(job_id) if e["type"] == "checkpoint.saved"]
    if not saved:
        return None
    with (
        contextlib.suppress(FileNotFoundError),
        zipfile.ZipFile(service.data / "archives" / saved[-1]) as archive,
    ):
        if any(text in archive.read(name) for name in archive.namelist() if name.endswith(".jsonl")):
            return True
    return None  # Or a newer one has just taken its place.


async def test_killed_with_its_machine_a_run_goes_on_from_the_checkpoint(start: Start, mark: str) -> None:
    service = await start(settings=OFTEN)
    hang = f"if [ -e again ]; then echo on; else touch again; exec sleep {mark}; fi"
    job = await service.submit(lines("bash echo once >> count.txt", f"bash {hang}", "answer went on"))
    await eventually(lambda: checkpoint_with(service, job["job_id"], b"toolu_rehearsal_1_"))
    await service.kill()
    shutil.rmtree(service.data / "runs")  # Another machine has none.
    await service.start()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "went on", 2)
    archive = await archive_of(service, job["session_id"])
    assert archive.read("count.txt") == b"once\n"
    ready = [
        e["data"]["source"] for e in await service.events(job["job_id"]) if e["type"] == "workspace.ready"
    ]
    assert ready == ["new", "checkpoint"]
    assert not list(service.data.glob("archives/claude-code/*/*.c*.zip"))
