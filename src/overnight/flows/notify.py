"""Paying owed webhooks: signed, one try at a time each, until they are delivered or given up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from overnight.domain.delivery import after_try, reserve
from overnight.domain.errors import DeliveryNotFound
from overnight.domain.job import Delivery, DeliveryTry
from overnight.domain.signature import sign_with_each
from overnight.ports import Clock, Entropy, JobIndex, JobStore, Receipt, StorageError, Wakeups, Webhooks

log = logging.getLogger(__name__)

RESERVE_SECONDS = 60.0
"""Longer than one try can take (15 s), so a delivery is sent by one process at a time."""
AT_ONCE = 8
LONGEST_NAP = 60.0

Secrets = Callable[[str | None], Awaitable[Sequence[bytes]]]
"""The live webhook secrets of an API key by its id, or for None those of the service itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    store: JobStore
    index: JobIndex
    webhooks: Webhooks
    wakeups: Wakeups
    clock: Clock
    entropy: Entropy
    secrets: Secrets

    async def run(self) -> None:
        """Send what is due, sleep until something is, for ever."""
        with self.wakeups.subscribe("deliveries") as owed:
            while True:
                try:
                    await self.send_due()
                    nap = await self._until_next()
                except StorageError:
                    log.exception("could not read the owed deliveries")
                    nap = LONGEST_NAP
                await owed.wait(nap)

    async def send_due(self) -> None:
        due = await self.index.due_deliveries(now=self.clock.now(), limit=AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for delivery_id in due:
                tasks.create_task(self._try(delivery_id))

    async def _until_next(self) -> float:
        at = await self.index.next_delivery_at()
        return LONGEST_NAP if at is None else min(max(at - self.clock.now(), 0.0), LONGEST_NAP)

    async def _try(self, delivery_id: str) -> None:
        try:
            taken = await self.store.change_delivery(
                delivery_id, lambda owed: reserve(owed, now=self.clock.now(), seconds=RESERVE_SECONDS)
            )
            if taken is None:
                return
            receipt = await self._send(taken)
            tried = DeliveryTry(at=self.clock.now(), status=receipt.status, failure=receipt.failure)
            chance = self.entropy.chance()
            await self.store.change_delivery(
                delivery_id,
                lambda owed: after_try(
                    owed, tried, retry_after=receipt.retry_after_seconds, now=tried.at, chance=chance
                ),
            )
        except DeliveryNotFound:
            return  # Its session was erased meanwhile.

    async def _send(self, delivery: Delivery) -> Receipt:
        body = delivery.body.encode(errors="replace")  # a lone surrogate must not break the notifier
        timestamp = int(self.clock.now())
        secrets = await self.secrets(delivery.key_id)
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign_with_each(secrets, delivery.delivery_id, timestamp, body),
        }
        return await self.webhooks.send(delivery.url, headers, body)
