"""Following a job until it ends, or until the user has seen enough."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from overnight.cli.show import View
from overnight.client import AsyncClient, Job


async def follow(client: AsyncClient, job_id: str, view: View) -> Job | None:
    """The finished job; None if Ctrl-C ended the watching first. The job itself is left alone."""
    watching = asyncio.ensure_future(_watch(client, job_id, view))
    with _ctrl_c_ends(watching):
        await asyncio.wait({watching})
    return None if watching.cancelled() else watching.result()


async def _watch(client: AsyncClient, job_id: str, view: View) -> Job:
    async for event in client.events(job_id):
        view.event(event)
    return await client.wait(job_id)


@contextmanager
def _ctrl_c_ends(task: "asyncio.Future[Any]") -> Iterator[None]:
    """The first Ctrl-C cancels the task; the second, with the default action back, ends the program at once."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def first() -> None:
        task.cancel()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    loop.add_signal_handler(signal.SIGINT, first)
    try:
        yield
    finally:
        if not task.cancelled():
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)
