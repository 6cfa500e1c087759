"""The consumer of the dead letters: fails the jobs that no worker took, by the domain's own rule."""

import logging

import msgspec

from front import Edge
from overnight.adapters.cloudflare.messages import InvalidMessage, Message, parse_message
from overnight.domain.dead_letter import give_up
from overnight.domain.errors import JobNotFound
from overnight.ports import StorageError

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60
"""Until a letter is read again that the ledger could not take in."""


async def bury(edge: Edge, letters) -> None:
    """Each letter by itself: what one of them does is nothing to the others."""
    for letter in letters:
        try:
            await _fail(edge, parse_message(_text(letter)))
        except (InvalidMessage, JobNotFound) as error:
            log.warning("dead letter %s is dropped: %s", letter.id, error)
        except StorageError:
            log.exception("dead letter %s is read again later", letter.id)
            letter.retry({"delaySeconds": AGAIN_SECONDS})
            continue
        letter.ack()


async def _fail(edge: Edge, message: Message) -> None:
    """Raises JobNotFound, StorageError."""
    now = edge.clock.now()
    decide = give_up(rung_for=message.rings_at, now=now, delivery_id=edge.entropy.delivery_id())
    change = await edge.store.change(message.job_id, decide)
    if not change.events:
        log.info("the dead letter of job %s means nothing: it runs, is finished or waits", message.job_id)
        return
    log.error("job %s has failed: no worker took it", message.job_id)
    if change.deliveries:
        await _ring(edge, message.job_id, now)


async def _ring(edge: Edge, job_id: str, now: float) -> None:
    """Whoever answers the bell of a finished job pays what it owes."""
    try:
        await edge.queue.send(job_id, at=now)
    except StorageError:
        log.exception("could not ring for the webhook of job %s: its alarm will", job_id)


def _text(letter) -> bytes:
    """The body as JSON; what is none is no message either."""
    try:
        return msgspec.json.encode(letter.body)
    except TypeError:
        return b""
