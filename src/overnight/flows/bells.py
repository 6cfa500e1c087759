"""Ringing the bells that a change asks for."""

from collections.abc import Sequence

from overnight.domain.job import Ring
from overnight.ports import Queue


async def ring(queue: Queue, rings: Sequence[Ring]) -> None:
    for bell in rings:
        await queue.send(bell.job_id, at=bell.at)
