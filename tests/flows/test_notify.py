"""Owed webhooks are paid: signed, retried, given up in the end, and never sent twice at once."""

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from overnight.domain import transitions
from overnight.domain.delivery import DELAYS
from overnight.domain.job import DeliveryStatus
from overnight.domain.keys import Caller, Scope
from overnight.domain.signature import parse_secret
from overnight.flows.hosts import LONGEST_LINE, MOST, HostBusy, Hosts
from overnight.flows.notify import RESERVE_SECONDS, TRY_SECONDS, Notifier
from overnight.ports import Receipt, Webhooks


class Receiver:
    def __init__(self, *receipts: Receipt) -> None:
        self.receipts = list(receipts)
        self.got: list[tuple[str, Mapping[str, str], bytes]] = []

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        self.got.append((url, headers, body))
        return self.receipts.pop(0) if len(self.receipts) > 1 else self.receipts[0]


SERVICE, OLD, NEW = ("whsec_" + b64encode(bytes([n]) * 32).decode() for n in range(3))


async def secrets_of(key_id: str | None) -> list[bytes]:
    live = {None: [SERVICE], "ovn_alice": [NEW, OLD]}[key_id]
    return [parse_secret(secret) for secret in live]


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """The signature alone: the time of these tests is not today's."""
    text = Webhook(secret).sign(
        headers["webhook-id"], datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC), body.decode()
    )
    assert text in headers["webhook-signature"].split(" ")


def notifier(world: Any, receiver: Webhooks) -> Notifier:
    return Notifier(
        store=world.store,
        index=world.store,
        webhooks=receiver,
        wakeups=world.wakeups,
        clock=world.clock,
        entropy=world.entropy,
        secrets=secrets_of,
    )


async def owing(world: Any, url: str = "https://example.com/hook", **submitted: Any) -> Any:
    job = await world.submit(callback_url=url, **submitted)
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
    verify(SERVICE, headers, body)
    [delivery] = await world.store.deliveries(job.job_id)
    assert (delivery.status, [t.status for t in delivery.tries]) == (DeliveryStatus.DELIVERED, [204])


async def test_what_a_keys_job_owes_is_signed_with_each_live_secret_of_the_key(world: Any) -> None:
    alice = Caller(owner="alice", key_id="ovn_alice", scopes=frozenset({Scope.SUBMIT}))
    await owing(world, caller=alice)
    receiver = Receiver(Receipt(status=204))
    await notifier(world, receiver).send_due()
    [(_, headers, body)] = receiver.got
    verify(OLD, headers, body)
    verify(NEW, headers, body)
    with pytest.raises(AssertionError):
        verify(SERVICE, headers, body)


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
    await asyncio.gather(*(notifier(world, receiver).send_due() for _ in range(2)))
    assert len(receiver.got) == 1


class BreaksOnce:
    """An index with a bug: its first answer is an error that no index promises."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.broken = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    async def due_deliveries(self, **how: Any) -> Any:
        if not self.broken.is_set():
            self.broken.set()
            raise RuntimeError("a bug")
        return await self._index.due_deliveries(**how)


async def test_an_index_that_breaks_does_not_end_the_notifier(world: Any) -> None:
    index, receivers = BreaksOnce(world.store), Receivers()
    paying = asyncio.create_task(replace(notifier(world, receivers), index=index).run())
    await index.broken.wait()
    await owing(world)
    async with asyncio.timeout(20):
        await receivers.answered.get()
    paying.cancel()


class Receivers:
    """Those at `slow` answer only when they are let go; counts how many tries each host has at once."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.at_slow = self.most_at_slow = 0
        self.answered: asyncio.Queue[str] = asyncio.Queue()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        if "slow" in url:
            self.at_slow += 1
            self.most_at_slow = max(self.at_slow, self.most_at_slow)
            await self.let_go.wait()
            self.at_slow -= 1
        self.answered.put_nowait(url)
        return Receipt(status=204)


async def test_a_slow_receiver_delays_nobody_else_and_gets_two_at_once(world: Any) -> None:
    for _ in range(20):
        await owing(world, url="https://slow.example/hook")
    for number in range(40):
        await owing(world, url=f"https://quick{number % 7}.example/hook")
    receivers = Receivers()
    paying = asyncio.create_task(notifier(world, receivers).run())
    async with asyncio.timeout(20):
        quick = [await receivers.answered.get() for _ in range(40)]
        assert not [url for url in quick if "slow" in url]
        assert receivers.at_slow == 2
        receivers.let_go.set()
        slow = [await receivers.answered.get() for _ in range(20)]
    assert all("slow" in url for url in slow)
    assert receivers.most_at_slow == 2
    paying.cancel()


async def test_many_slow_receivers_delay_nobody_else(world: Any) -> None:
    for number in range(24):
        await owing(world, url=f"https://slow{number % 12}.example/hook")
    await owing(world, url="https://quick.example/hook")
    receivers = Receivers()
    paying = asyncio.create_task(notifier(world, receivers).run())
    async with asyncio.timeout(20):
        assert "quick" in await receivers.answered.get()
    receivers.let_go.set()
    paying.cancel()


async def test_a_receiver_that_is_busy_for_too_long_is_tried_later(world: Any) -> None:
    hosts = Hosts()
    async with asyncio.timeout(10), hosts.turn("a", patience_seconds=1), hosts.turn("a", patience_seconds=1):
        with pytest.raises(HostBusy):
            async with hosts.turn("a", patience_seconds=0.01):
                pass
        async with hosts.turn("b", patience_seconds=1):
            pass
    assert hosts.room == MOST


async def test_a_line_that_is_full_takes_no_more(world: Any) -> None:
    hosts, ready = Hosts(), asyncio.Event()

    async def stand_in_line() -> None:
        async with hosts.turn("a", patience_seconds=60):
            await ready.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as line:
        for _ in range(LONGEST_LINE):
            line.create_task(stand_in_line())
        await asyncio.sleep(0)  # lets each task stand in line
        assert hosts.room == MOST - LONGEST_LINE
        with pytest.raises(HostBusy):
            async with hosts.turn("a", patience_seconds=60):
                pass
        ready.set()


async def test_what_was_reserved_too_long_ago_is_left_to_the_next_reservation(world: Any) -> None:
    """Reserving a batch takes its time where the store is far away; another process may send it by now."""
    await owing(world)
    receiver = Receiver(Receipt(status=200))
    pay = notifier(world, receiver)
    [taken] = await pay._take()
    world.clock.time += RESERVE_SECONDS - TRY_SECONDS
    await pay._pay(taken)
    assert receiver.got == []
    world.clock.time += TRY_SECONDS
    await pay.send_due()
    assert len(receiver.got) == 1


async def test_a_session_that_is_erased_while_its_webhook_waits_is_not_told_about(world: Any) -> None:
    job = await owing(world)
    receiver = Receiver(Receipt(status=200))
    pay = notifier(world, receiver)
    taken = await pay._take()
    await world.store.erase(job.session_id)
    for delivery in taken:
        await pay._pay(delivery)
    assert (len(taken), receiver.got) == (1, [])
