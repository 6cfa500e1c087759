"""The doorbells that a change of a job rings."""

import logging
from collections.abc import Sequence

from overnight.domain.job import Ring
from overnight.ports import Queue

log = logging.getLogger(__name__)


async def ring(queue: Queue, rings: Sequence[Ring]) -> None:
    """Best effort: what rings is written by now, and must not look as if it were not."""
    for bell in rings:
        try:
            await queue.send(bell.job_id, at=bell.at)
        except Exception:  # whatever it is: the sweep, or the ledger's alarm, rings lost bells again
            log.exception("could not ring for job %s", bell.job_id)
