"""Finding and ending what a run left behind. Real processes, no agent."""

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.waiting import until

from overnight.agent import processes

MARK = "mark-of-the-test-0001"


async def shell(script: str, mark: str | None = MARK) -> asyncio.subprocess.Process:
    """Returns when the script has said `ready`."""
    environment = {"PATH": os.defpath} | ({processes.MARK: mark} if mark else {})
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


@pytest.fixture(autouse=True)
async def clean() -> AsyncIterator[None]:
    yield
    await processes.end(MARK)


def commands() -> list[str]:
    return sorted(Path(f"/proc/{p.pid}/comm").read_text().strip() for p in processes.find(MARK))


async def until_these_run(*expected: str) -> None:
    """A child is there before it has become the program that it will be, and nothing says when it has."""
    await until(lambda: commands() == list(expected))


async def test_children_daemons_and_children_without_an_environment_are_found() -> None:
    process = await shell(
        "setsid tail -f /dev/null >/dev/null & env -i sleep 1000 >/dev/null & echo ready; wait"
    )
    await until_these_run("sh", "sleep", "tail")
    assert await processes.end(MARK) == []
    assert processes.find(MARK) == []
    # The shell is killed, or ends by itself once its children were.
    assert await process.wait() in {-signal.SIGKILL, 0}


async def test_a_daemon_whose_parents_are_gone_is_found() -> None:
    process = await shell("setsid sh -c 'tail -f /dev/null >/dev/null &'; echo ready")
    await process.wait()
    await until_these_run("tail")
    assert await processes.end(MARK) == []


async def test_a_frozen_process_is_ended() -> None:
    process = await shell("echo ready; kill -STOP $$")
    assert await processes.end(MARK) == []
    assert await process.wait() == -signal.SIGKILL


async def test_others_are_left_alone() -> None:
    other = await shell("echo ready; exec tail -f /dev/null", mark=MARK + "-longer")
    none = await shell("echo ready; exec tail -f /dev/null", mark=None)
    await processes.end(MARK)
    assert other.returncode is None
    assert none.returncode is None
    for process in (other, none):
        process.kill()
        await process.wait()


async def test_a_reused_pid_is_not_killed() -> None:
    process = await shell("echo ready; exec cat")
    (found,) = processes.find(MARK)
    processes._kill(dataclasses.replace(found, started=found.started - 1))
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"still here\n")
    assert await process.stdout.readline() == b"still here\n"
    processes._kill(found)
    assert await process.wait() == -signal.SIGKILL


async def test_reaping_a_workspace(tmp_path: Path) -> None:
    process = await shell("echo ready; exec tail -f /dev/null")
    processes.note(tmp_path, MARK)
    await processes.reap(tmp_path)
    assert await process.wait() == -signal.SIGKILL
    assert not (tmp_path / processes.RECORD).exists()
    await processes.reap(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"mark": 1}', '{"mark": ""}', '{"mark": "a b"}', "\x80"])
async def test_a_record_that_says_nothing_usable_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / processes.RECORD).write_bytes(text.encode("latin-1"))
    await processes.reap(tmp_path)


async def test_what_does_not_end_in_time_is_said(tmp_path: Path) -> None:
    """Any process outlasts no time at all, as one that is stuck in the kernel outlasts ten seconds."""
    process = await shell("echo ready; exec tail -f /dev/null")
    processes.note(tmp_path, MARK)
    with pytest.raises(OSError, match=str(process.pid)):
        await processes.reap(tmp_path, seconds=0.0)
    assert processes.noted(tmp_path) == MARK, "whoever comes next tries again"
    await process.wait()
