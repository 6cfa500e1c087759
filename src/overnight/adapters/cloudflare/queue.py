"""The doorbell as a pull consumer of Cloudflare's queue, by the official client.

What the port asks and the service does not keep (docs/decisions/0082): bells come in any order, a bell that is sent
again rings twice, and a late ack takes the message from whoever holds it. The ledger makes all three harmless.
"""

import asyncio
import base64
import binascii
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import cloudflare
import msgspec
from cloudflare.types.queues.message_pull_response import Message as Pulled

from overnight.adapters.cloudflare.client import cloudflare_client, said
from overnight.adapters.cloudflare.messages import InvalidMessage, bell, parse_message
from overnight.adapters.cloudflare.polling import Pace
from overnight.ports import Bell, Clock, StorageFailed

log = logging.getLogger(__name__)

MOST_AT_ONCE = 100
MAX_DELAY_SECONDS = 12 * 3600
POISON_DELAY_SECONDS = 60
TIMEOUT_SECONDS = 10.0
"""Of one call, which is not made again: a bell is acknowledged between the claim of its job and the first renewal of
the lease, which has 20 seconds. One that is not acknowledged rings again, and harms nobody."""
MEANINGS = {
    401: "Cloudflare does not know the token: set CLOUDFLARE_API_TOKEN to one that is alive.",
    403: "The token may not use the queue, or is not alive: CLOUDFLARE_API_TOKEN needs the permissions Queues Read and "
    "Queues Write.",
    404: "There is no such queue: look at CLOUDFLARE_ACCOUNT_ID and OVERNIGHT_CLOUDFLARE_QUEUE_ID.",
}
"""A token that is not known may be answered with 403, too (Cloudflare's example "Publish to a Queue via HTTP")."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAddress:
    account_id: str
    queue_id: str


class CloudflareQueue:
    """The port `Queue`."""

    def __init__(self, client: cloudflare.AsyncCloudflare, address: QueueAddress, clock: Clock) -> None:
        self._messages = client.queues.messages
        self._account = address.account_id
        self._queue = address.queue_id
        self._clock = clock
        self._pace = Pace()

    async def send(self, job_id: str, *, at: float) -> None:
        ring = bell(job_id, timestamp=int(at * 1000))
        await _told(
            self._messages.push(
                self._queue,
                account_id=self._account,
                body=msgspec.to_builtins(ring),
                content_type="json",
                delay_seconds=self._delay(at),
            )
        )

    async def receive(self, *, limit: int, visibility_seconds: float, wait_seconds: float) -> Sequence[Bell]:
        """There is no long poll, and an empty pull is paid for: an idle worker asks ever more seldom.

        At least once in each wait, however short.
        """
        now = asyncio.get_running_loop().time
        ends = now() + wait_seconds
        await asyncio.sleep(min(self._pace.left(now()), wait_seconds))
        while True:
            bells: Sequence[Bell] = []
            try:
                bells = await self._pull(limit, visibility_seconds)
            finally:  # of one that fails too the next comes later
                self._pace.looked(now(), found=bool(bells))
            left = max(ends - now(), 0.0)
            if bells or left < self._pace.left(now()):
                await asyncio.sleep(0.0 if bells else left)
                return bells
            await asyncio.sleep(self._pace.left(now()))

    async def ack(self, bell: Bell) -> None:
        acks = [{"lease_id": bell.receipt}]
        await _told(self._messages.ack(self._queue, account_id=self._account, acks=acks, retries=[]))  # type: ignore[arg-type]  # its TypedDicts are private

    async def retry(self, bell: Bell, *, at: float) -> None:
        await self._put_off(bell.receipt, self._delay(at))

    async def _pull(self, limit: int, visibility_seconds: float) -> list[Bell]:
        answer = await _told(
            self._messages.pull(
                self._queue,
                account_id=self._account,
                batch_size=min(limit, MOST_AT_ONCE),
                visibility_timeout_ms=math.ceil(visibility_seconds * 1000),
            )
        )
        pulled = answer.messages if answer is not None and answer.messages else []
        return [bell for message in pulled if (bell := await self._bell(message)) is not None]

    async def _bell(self, message: Pulled) -> Bell | None:
        """What is none of ours is left to the queue, which makes a dead letter of it after enough tries."""
        receipt = message.lease_id or ""
        try:
            job_id = parse_message(_body(message)).job_id
        except InvalidMessage:
            log.warning("message %s of the queue is not one of overnight", message.id)
            await self._put_off(receipt, POISON_DELAY_SECONDS)
            return None
        return Bell(job_id=job_id, receipt=receipt, rung=int(message.attempts or 1))

    async def _put_off(self, receipt: str, delay: int) -> None:
        retries = [{"lease_id": receipt, "delay_seconds": delay}]
        await _told(self._messages.ack(self._queue, account_id=self._account, acks=[], retries=retries))  # type: ignore[arg-type]  # its TypedDicts are private

    def _delay(self, at: float) -> int:
        return min(max(math.ceil(at - self._clock.now()), 0), MAX_DELAY_SECONDS)


@asynccontextmanager
async def cloudflare_queue(
    url: str, token: str, address: QueueAddress, clock: Clock
) -> AsyncIterator[CloudflareQueue]:
    """`url` is that of Cloudflare's API."""
    async with cloudflare_client(url, token, timeout_seconds=TIMEOUT_SECONDS, retries=0) as client:
        yield CloudflareQueue(client, address, clock)


async def _told(call: Awaitable[T]) -> T:
    """The answer of a call. Raises StorageFailed in words that help."""
    try:
        return await call
    except cloudflare.APIStatusError as error:
        meaning = MEANINGS.get(error.status_code, "Cloudflare's queue refused the call.")
        raise StorageFailed(f"{meaning} ({said(error)})") from None
    except cloudflare.CloudflareError as error:
        raise StorageFailed(f"Cloudflare's queue could not be reached ({type(error).__name__}).") from None


def _body(message: Pulled) -> bytes:
    """JSON comes in base64, text as it is."""
    body = message.body or ""
    try:
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        return body.encode()
