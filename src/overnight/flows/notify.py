"""Paying owed webhooks: signed, one try at a time each, until they are delivered or given up.

What is due is reserved, a batch at a time, and sent in the background: the next batch does not wait for the
slowest receiver of this one. A reservation is also what brings back a delivery that could not be sent: its
process died, the store failed, or its host was busy for too long.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from overnight.domain.delivery import after_try, reserve
from overnight.domain.errors import DeliveryNotFound
from overnight.domain.job import Delivery, DeliveryTry
from overnight.domain.signature import sign_with_each
from overnight.flows.hosts import HostBusy, Hosts, host_of
from overnight.ports import Clock, Entropy, JobIndex, JobStore, Receipt, StorageError, Wakeups, Webhooks

log = logging.getLogger(__name__)

RESERVE_SECONDS = 60.0
"""Longer than a delivery waits for its host and is tried, so it is sent by one process at a time."""
TRY_SECONDS = 20.0
"""More than one try can take (15 s)."""
BATCH = 32
BREATH = 1.0
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
    hosts: Hosts = field(default_factory=Hosts)

    async def run(self) -> None:
        """Send what is due, sleep until something is, for ever."""
        with self.wakeups.subscribe("deliveries") as owed:
            async with asyncio.TaskGroup() as sending:
                while True:
                    await owed.wait(await self._send_in(sending))

    async def _send_in(self, sending: asyncio.TaskGroup) -> float:
        """Start to send what is due; returns how long to wait before the next look."""
        if not self.hosts.room:
            return BREATH
        try:
            taken = await self._take()
            for delivery in taken:
                sending.create_task(self._pay(delivery))
            return 0.0 if taken else await self._until_next()
        except Exception:
            # Whatever it is: the notifier must not take down the runs beside it.
            log.exception("could not read the owed deliveries")
            return LONGEST_NAP

    async def send_due(self) -> None:
        """Send one batch of what is due, to the end."""
        async with asyncio.TaskGroup() as sending:
            for delivery in await self._take():
                sending.create_task(self._pay(delivery))

    async def _until_next(self) -> float:
        at = await self.index.next_delivery_at()
        return LONGEST_NAP if at is None else min(max(at - self.clock.now(), 0.0), LONGEST_NAP)

    async def _take(self) -> list[Delivery]:
        """Reserve what is due. Raises StorageError."""
        taken: list[Delivery] = []
        most = min(BATCH, self.hosts.room)
        for delivery_id in await self.index.due_deliveries(now=self.clock.now(), limit=most):
            with contextlib.suppress(DeliveryNotFound):  # its session was erased meanwhile
                delivery = await self.store.change_delivery(delivery_id, self._reserve)
                taken += [delivery] if delivery is not None else []
        return taken

    def _reserve(self, owed: Delivery) -> Delivery | None:
        return reserve(owed, now=self.clock.now(), seconds=RESERVE_SECONDS)

    async def _pay(self, delivery: Delivery) -> None:
        """One try at a reserved delivery, and its outcome in the log of tries."""
        patience = delivery.next_at - self.clock.now() - TRY_SECONDS  # then its reservation ends
        try:
            async with self.hosts.turn(host_of(delivery.url), patience_seconds=patience):
                await self.store.change_delivery(delivery.delivery_id, _as_it_is)  # or it was erased
                receipt = await self._send(delivery)
            await self._note(delivery.delivery_id, receipt)
        except HostBusy:
            return  # It is due again when its reservation ends.
        except DeliveryNotFound:
            return  # Its session was erased meanwhile.
        except StorageError:
            log.exception("could not note what became of delivery %s: it is sent again", delivery.delivery_id)
        except Exception:
            # Whatever is wrong with one delivery must not stop the others; its reservation brings it back.
            log.exception("delivery %s broke", delivery.delivery_id)

    async def _note(self, delivery_id: str, receipt: Receipt) -> None:
        tried = DeliveryTry(at=self.clock.now(), status=receipt.status, failure=receipt.failure)
        chance = self.entropy.chance()
        await self.store.change_delivery(
            delivery_id,
            lambda owed: after_try(
                owed, tried, retry_after=receipt.retry_after_seconds, now=tried.at, chance=chance
            ),
        )

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


def _as_it_is(_: Delivery) -> None:
    """Writes nothing."""
