"""The parts of the Cloudflare adapters that need no Cloudflare: claims, messages, wakeups, debts."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.claims import Claims
from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Read
from overnight.adapters.cloudflare.keys import SecretKeys
from overnight.adapters.cloudflare.messages import (
    MAX_BYTES,
    InvalidMessage,
    bell,
    message_of,
    parse_message,
    size,
)
from overnight.adapters.cloudflare.owed import AGAIN_SECONDS, OwnIndex
from overnight.adapters.cloudflare.owners import Owners
from overnight.adapters.cloudflare.polling import LookingWakeups, Pace
from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.domain.delivery import owe
from overnight.domain.errors import IdempotencyConflict, TooManyJobs
from overnight.domain.job import Delivery, DeliveryStatus, Job, JobRequest, Session, Status
from overnight.domain.keys import KeyLimits
from overnight.domain.standing import room_to_wait
from overnight.flows.notify import Notifier
from overnight.ports import Idempotency, JobStore, Receipt, StorageFailed

KEY = Idempotency(key="k", fingerprint="f")


class MemoryDocuments:
    """The port `Documents`."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Document]] = {}
        self._version = 0

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        held = self._objects.get(name, {})
        keys = [key for key in read.keys if key in held]
        for span in read.spans:
            inside = (key for key in sorted(held) if key.startswith(span.prefix) and key > span.after)
            keys += list(inside)[: span.limit]
        return {key: held[key] for key in keys}

    async def write(self, name: str, batch: Batch) -> bool:
        held = self._objects.setdefault(name, {})
        now = {key: held[key].version if key in held else ABSENT for key in batch.expect}
        if now != dict(batch.expect):
            return False
        self._version += 1
        held.update({key: Document(self._version, body) for key, body in batch.put.items()})
        for key in batch.delete:
            held.pop(key, None)
        return True


def made_job(entropy: SystemEntropy, **fields: object) -> Job:
    job = Job(
        job_id=entropy.job_id(),
        session_id=entropy.session_id(),
        status=Status.QUEUED,
        created_at=1.5,
        available_at=1.5,
    )
    return replace(job, **fields)  # type: ignore[arg-type]  # the tests' own fields


@pytest.fixture
def entropy() -> SystemEntropy:
    return SystemEntropy()


class TestClaims:
    @pytest.fixture
    def documents(self) -> MemoryDocuments:
        return MemoryDocuments()

    @pytest.fixture
    def claims(self, documents: MemoryDocuments) -> Claims:
        return Claims(documents, SystemClock(), patience=0.1)

    async def write(self, documents: MemoryDocuments, job: Job) -> bool:
        """As the writer of a claim does it: only if the job's document is absent."""
        key = codec.JOBS + job.job_id
        session = Session(session_id=job.session_id, created_at=1.0, updated_at=1.0)
        put = {key: codec.encode(job), codec.SESSION: codec.encode(session)}
        batch = Batch(expect={key: ABSENT}, put=put)
        return await documents.write(codec.session_object(job.session_id), batch)

    async def test_a_writer_that_died_is_replaced_and_can_write_no_more(
        self, documents: MemoryDocuments, claims: Claims, entropy: SystemEntropy
    ) -> None:
        dead, next_one = made_job(entropy), made_job(entropy)
        assert await claims.take(KEY, dead, version=ABSENT)

        standing = await claims.look(KEY)
        assert standing.replay is None
        assert not await self.write(documents, dead)
        assert await claims.take(KEY, next_one, version=standing.version)
        assert await self.write(documents, next_one)
        replay = (await claims.look(KEY)).replay
        assert replay is not None
        assert replay.job == next_one

    async def test_a_writer_that_is_only_slow_is_waited_for(
        self, documents: MemoryDocuments, entropy: SystemEntropy
    ) -> None:
        claims, job = Claims(documents, SystemClock(), patience=30.0), made_job(entropy)
        await claims.take(KEY, job, version=ABSENT)
        looking = asyncio.create_task(claims.look(KEY))
        await asyncio.sleep(0)
        assert await self.write(documents, job)
        replay = (await looking).replay
        assert replay is not None
        assert replay.job == job

    async def test_of_two_that_replace_it_one_wins(self, claims: Claims, entropy: SystemEntropy) -> None:
        await claims.take(KEY, made_job(entropy), version=ABSENT)
        one, two = await asyncio.gather(claims.look(KEY), claims.look(KEY))
        won = [await claims.take(KEY, made_job(entropy), version=standing.version) for standing in (one, two)]
        assert won == [True, False]

    async def test_another_request_under_the_key_is_refused(
        self, claims: Claims, entropy: SystemEntropy
    ) -> None:
        await claims.take(KEY, made_job(entropy), version=ABSENT)
        with pytest.raises(IdempotencyConflict):
            await claims.look(replace(KEY, fingerprint="g"))

    async def test_only_its_own_job_frees_a_key(self, claims: Claims, entropy: SystemEntropy) -> None:
        job = made_job(entropy)
        await claims.take(KEY, job, version=ABSENT)
        await claims.free(codec.claim_object(KEY), entropy.job_id())
        assert not await claims.take(KEY, job, version=ABSENT)
        await claims.free(codec.claim_object(KEY), job.job_id)
        assert await claims.take(KEY, job, version=ABSENT)


class TestMessages:
    def test_a_message_has_the_plans_schema(self, entropy: SystemEntropy) -> None:
        job = made_job(entropy)
        request = JobRequest(prompt="p", callback_url="https://example.com/", model="m", max_turns=3)
        assert msgspec.to_builtins(message_of(job, request)) == {
            "job_id": job.job_id,
            "prompt": "p",
            "session_id": job.session_id,
            "callback_url": "https://example.com/",
            "timestamp": 1500,
            "options": {"model": "m", "max_turns": 3, "timeout_seconds": 1500.0},
        }

    @given(
        prompt=st.text(max_size=50) | st.text("\x00é☀😀", min_size=1, max_size=9).map(lambda t: t * 20_000)
    )
    def test_a_message_fits_and_names_its_job(self, prompt: str) -> None:
        job = made_job(SystemEntropy())
        message = message_of(job, JobRequest(prompt=prompt))
        assert size(message) <= MAX_BYTES
        assert message.prompt in (prompt, None)
        assert parse_message(msgspec.json.encode(message)).job_id == job.job_id

    @given(at=st.floats(0, 1e11))
    def test_a_bell_is_a_message_and_rings_no_earlier_than_it_was_to(self, at: float) -> None:
        job_id = SystemEntropy().job_id()
        ring = parse_message(msgspec.json.encode(bell(job_id, timestamp=int(at * 1000))))
        assert ring.job_id == job_id
        assert at <= ring.rings_at <= at + 0.002

    @given(body=st.binary() | st.sampled_from([b"{}", b'{"job_id":"x","prompt":null}', b"[]", b'"\xff"']))
    def test_whatever_else_comes_is_no_message(self, body: bytes) -> None:
        with pytest.raises(InvalidMessage):
            parse_message(body)


class TestWakeups:
    async def test_a_waiter_looks_again_after_a_while(self) -> None:
        with LookingWakeups(MemoryWakeups(), 0.01).subscribe("job:1") as subscription:
            assert await subscription.wait(10.0)
            assert not await subscription.wait(0.001)

    async def test_what_this_process_owes_wakes_at_once(self) -> None:
        wakeups = LookingWakeups(MemoryWakeups(), 60.0)
        with wakeups.subscribe("deliveries") as subscription:
            wakeups.announce("job:1", "deliveries")
            assert await subscription.wait(0.0)

    async def test_what_this_process_writes_of_a_job_makes_nobody_look(self) -> None:
        wakeups = LookingWakeups(MemoryWakeups(), 60.0)
        with wakeups.subscribe("job:1") as subscription:
            wakeups.announce("job:1")
            assert not await subscription.wait(0.0)


async def test_a_worker_knows_what_it_owes_until_it_is_delivered(entropy: SystemEntropy) -> None:
    job = made_job(entropy, callback_url="https://example.com/")
    early, late = (owe(job, delivery_id=entropy.delivery_id(), now=now) for now in (1.0, 2.0))
    index = OwnIndex()
    index.note([late, early])
    assert await index.next_delivery_at() == 1.0
    assert list(await index.due_deliveries(now=1.5, limit=9)) == [early.delivery_id]
    assert list(await index.due_deliveries(now=1.5, limit=9)) == []  # whoever takes it notes it anew
    index.note([replace(early, next_at=3.0)])
    assert list(await index.due_deliveries(now=4.0, limit=9)) == [late.delivery_id, early.delivery_id]
    index.note([replace(early, status=DeliveryStatus.DELIVERED), late])
    assert await index.next_delivery_at() == 2.0


async def test_a_delivery_that_the_ledger_could_not_reserve_is_tried_again_by_the_same_worker(
    entropy: SystemEntropy,
) -> None:
    """And one that nobody could take is left to the alarm, or the ledger would be asked for ever."""
    job = made_job(entropy, callback_url="https://example.com/")
    owed = owe(job, delivery_id=entropy.delivery_id(), now=1.0)
    index, clock = OwnIndex(), FixedClock(1.0)
    index.note([owed])
    ledger = Stumbling(owed, index)
    pay = _notifier(ledger, index, clock, entropy).send_due
    with pytest.raises(ExceptionGroup):
        await pay()
    clock.time += AGAIN_SECONDS / 2
    await pay()
    assert ledger.asked == 1
    clock.time += AGAIN_SECONDS
    ledger.stumbles = False
    await pay()
    assert ledger.delivery.status is DeliveryStatus.DELIVERED

    index.note([owed])
    told = [await index.due_deliveries(now=now, limit=9) for now in (1e6, 2e6, 3e6)]
    assert told == [[owed.delivery_id], [owed.delivery_id], []]


@dataclass
class Stumbling:
    """The deliveries of a ledger with one in it, as the port `JobStore` has them."""

    delivery: Delivery
    index: OwnIndex
    stumbles: bool = True
    asked: int = 0

    async def change_delivery(self, _: str, decide: Callable[[Delivery], Delivery | None]) -> Delivery | None:
        self.asked += 1
        if self.stumbles:
            raise StorageFailed("not now")
        after = decide(self.delivery)
        if after is not None:
            self.delivery = after
            self.index.note([after])
        return after


class Receiver:
    """The port `Webhooks`."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        return Receipt(status=204)


async def _secrets(_: str | None) -> Sequence[bytes]:
    return [bytes(32)]


def _notifier(ledger: Stumbling, index: OwnIndex, clock: "FixedClock", entropy: SystemEntropy) -> Notifier:
    return Notifier(
        store=cast("JobStore", ledger),
        index=index,
        webhooks=Receiver(),
        wakeups=MemoryWakeups(),
        clock=clock,
        entropy=entropy,
        secrets=_secrets,
    )


@pytest.mark.parametrize("secret", [None, "", "[]", "{", '["x"]'])
async def test_without_keys_nobody_gets_in(secret: str | None) -> None:
    with pytest.raises(StorageFailed, match="OVERNIGHT_KEYS"):
        await SecretKeys(secret).keys()


class TestOwners:
    """What a crash left in an owner's object locks nobody out."""

    @pytest.fixture
    def documents(self) -> MemoryDocuments:
        return MemoryDocuments()

    async def test_an_entry_whose_job_never_came_is_mended_by_whoever_it_refuses(
        self, documents: MemoryDocuments, entropy: SystemEntropy
    ) -> None:
        check = room_to_wait(KeyLimits(max_queued=1), max_queued_by_all=100, now=0.0)
        await Owners(documents, FixedClock(0.0)).reserve(made_job(entropy), check)
        with pytest.raises(TooManyJobs):
            await Owners(documents, FixedClock(1.0)).reserve(made_job(entropy), check)
        await Owners(documents, FixedClock(60.0)).reserve(made_job(entropy), check)

    async def test_an_entry_that_is_right_stays(
        self, documents: MemoryDocuments, entropy: SystemEntropy
    ) -> None:
        check, job = room_to_wait(KeyLimits(max_queued=1), max_queued_by_all=100, now=0.0), made_job(entropy)
        await Owners(documents, FixedClock(0.0)).reserve(job, check)
        put = {codec.JOBS + job.job_id: codec.encode(job)}
        await documents.write(codec.session_object(job.session_id), Batch(put=put))
        with pytest.raises(TooManyJobs):
            await Owners(documents, FixedClock(60.0)).reserve(made_job(entropy), check)


class FixedClock:
    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time


class TestPace:
    def test_a_waiter_that_waits_again_and_again_asks_ever_more_seldom(self) -> None:
        pace, now, asked = Pace(), 0.0, []
        while now <= 60.0:
            asked.append(now)
            pace.looked(now, found=False)
            now += pace.left(now)
        assert asked[:8] == [0.0, 0.25, 0.75, 1.75, 3.75, 7.75, 12.75, 17.75]
        assert asked[-1] - asked[-2] == 5.0
        assert len(asked) == 16

    def test_what_was_found_makes_it_ask_at_once(self) -> None:
        pace = Pace()
        for now in (0.0, 0.25, 0.75):
            pace.looked(now, found=False)
        pace.looked(2.0, found=True)
        assert pace.left(2.0) == 0.0
        pace.looked(2.0, found=False)
        assert pace.left(2.0) == 0.25
