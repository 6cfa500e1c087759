"""Owed webhooks are paid: signed, retried, given up in the end, and never sent twice at once."""

from collections.abc import Mapping
from typing import Any

from overnight.domain import transitions
from overnight.domain.delivery import DELAYS
from overnight.domain.job import DeliveryStatus
from overnight.flows.notify import Notifier
from overnight.ports import Receipt


class Receiver:
    def __init__(self, *receipts: Receipt) -> None:
        self.receipts = list(receipts)
        self.got: list[tuple[str, Mapping[str, str], bytes]] = []

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        self.got.append((url, headers, body))
        return self.receipts.pop(0) if len(self.receipts) > 1 else self.receipts[0]


def notifier(world: Any, receiver: Receiver) -> Notifier:
    return Notifier(
        store=world.store,
        index=world.store,
        webhooks=receiver,
        wakeups=world.wakeups,
        clock=world.clock,
        entropy=world.entropy,
        sign=lambda message, timestamp, body: f"v1,{message}.{timestamp}.{len(body)}",
    )


async def owing(world: Any) -> Any:
    job = await world.submit(callback_url="https://example.com/hook")
    decide = transitions.cancel(now=world.clock.now(), delivery_id=world.entropy.delivery_id())
    await world.store.change(job.job_id, decide)
    return job


async def test_a_delivery_is_sent_once_signed_over_what_is_sent(world: Any) -> None:
    job, receiver = await owing(world), Receiver(Receipt(status=204))
    pay = notifier(world, receiver)
    await pay.send_due()
    await pay.send_due()
    [(url, headers, body)] = receiver.got
    assert url == "https://example.com/hook"
    assert headers["webhook-signature"] == f"v1,{headers['webhook-id']}.{int(world.clock.now())}.{len(body)}"
    [delivery] = await world.store.deliveries(job.job_id)
    assert (delivery.status, [t.status for t in delivery.tries]) == (DeliveryStatus.DELIVERED, [204])


async def test_a_failing_receiver_is_tried_ten_times_with_the_same_id_and_body(world: Any) -> None:
    job, receiver = await owing(world), Receiver(Receipt(failure="timeout"))
    pay = notifier(world, receiver)
    for delay in (*DELAYS, 1e9):
        world.clock.time += delay * 1.2
        await pay.send_due()
    assert len(receiver.got) == len(DELAYS)
    assert len({(headers["webhook-id"], body) for _, headers, body in receiver.got}) == 1
    assert len({headers["webhook-signature"] for _, headers, _ in receiver.got}) > 1
    [delivery] = await world.store.deliveries(job.job_id)
    assert delivery.status is DeliveryStatus.FAILED


async def test_a_receiver_that_says_when_to_come_back_is_heeded(world: Any) -> None:
    await owing(world)
    receiver = Receiver(Receipt(status=503, retry_after_seconds=600.0), Receipt(status=200))
    pay = notifier(world, receiver)
    await pay.send_due()
    world.clock.time += 599.0
    await pay.send_due()
    assert len(receiver.got) == 1
    world.clock.time += 1.0
    await pay.send_due()
    assert len(receiver.got) == 2


async def test_two_notifiers_send_a_delivery_once(world: Any) -> None:
    await owing(world)
    receiver = Receiver(Receipt(status=200))
    due = await world.store.due_deliveries(now=world.clock.now(), limit=9)
    first, second = notifier(world, receiver), notifier(world, receiver)
    for delivery_id in due:
        await first._try(delivery_id)
        await second._try(delivery_id)
    assert len(receiver.got) == 1
