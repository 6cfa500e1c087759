"""An object of the ledger has its alarm in the transaction that needs it, and looks on whatever a look comes to."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import ABSENT, Batch
from overnight.adapters.cloudflare.looks import Sight
from overnight.adapters.cloudflare.object_rows import ObjectRows
from overnight.adapters.cloudflare.tended import TendedObject
from overnight.domain.job import Job, Session, Status
from overnight.ports import StorageFailed

TEND = 20.0
NOW = 1000.0
JOB = Job(job_id="j", session_id="s", status=Status.QUEUED, created_at=NOW, available_at=NOW)
SESSION = Session(session_id="s", created_at=NOW, updated_at=NOW, line=("j",))


class Clock:
    def now(self) -> float:
        return NOW


class Storage:
    """Of a Durable Object: what is called without an `await` in between is one turn, and is written at once."""

    def __init__(self, alarm: float | None = None) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.alarm = alarm
        self.asked = 0
        self.turns: list[list[str]] = [[]]

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        return self.database.execute(statement, values).fetchall()

    async def getAlarm(self) -> float | None:
        self.asked += 1
        alarm = self.alarm
        await self._turn()
        return None if alarm is None else alarm * 1000

    def setAlarm(self, at: int) -> Awaitable[None]:
        self.turns[-1].append("alarm")
        self.alarm = at / 1000
        return self._turn()

    def transactionSync(self, act: Callable[[], bool]) -> bool:
        self.turns[-1].append("write")
        return act()

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        self.turns.append([])


def opened(storage: Storage) -> TendedObject:
    return TendedObject(storage, ObjectRows(storage.execute), Clock(), TEND)


def accepted(job: Job = JOB) -> Batch:
    put = {codec.SESSION: codec.encode(SESSION), codec.JOBS + job.job_id: codec.encode(job)}
    return Batch(expect={codec.SESSION: ABSENT}, put=put)


async def nothing(_: Sight) -> None:
    return


async def test_a_job_and_its_alarm_are_written_in_one_turn() -> None:
    """Else an object that is lost in between has a job that nobody rings for and nobody looks after."""
    storage = Storage()
    assert await opened(storage).write(accepted())
    assert ["write", "alarm"] in storage.turns
    assert storage.alarm == NOW + TEND


async def test_the_alarm_is_asked_for_once_and_only_brought_forward() -> None:
    storage = Storage(alarm=NOW + 5)
    one = opened(storage)
    await one.write(accepted())
    await one.write(Batch(put={"other": "1"}))
    assert (storage.asked, storage.alarm) == (1, NOW + 5)


async def test_two_writes_at_once_keep_the_earlier_alarm() -> None:
    """The second one asked for the alarm before the first one set it."""
    storage = Storage()
    one = opened(storage)
    later = replace(JOB, available_at=NOW + 100)
    found = Batch(expect={codec.SESSION: 1}, put={codec.JOBS + "j": codec.encode(later)})
    assert all(await asyncio.gather(one.write(accepted()), one.write(found)))
    assert storage.alarm == NOW + TEND


@pytest.mark.parametrize("trouble", [StorageFailed("not now"), KeyError("a fault of ours")])
async def test_a_look_that_fails_is_followed_by_another(trouble: Exception) -> None:
    """The runtime would give up after six tries, and the session would be looked after no more."""
    storage = Storage()
    one = opened(storage)
    await one.write(accepted())

    async def fails(_: Sight) -> None:
        raise trouble

    storage.alarm = None  # as the runtime unsets it
    await one.alarm(fails, chance=0.0)
    assert storage.alarm is not None


async def test_a_write_of_the_look_itself_does_not_put_off_the_next_one() -> None:
    storage = Storage()
    one = opened(storage)
    await one.write(accepted())
    storage.alarm = None

    async def takes_back(sight: Sight) -> None:
        assert sight.first is not None
        again = replace(sight.first, available_at=NOW + 5)
        await one.write(Batch(expect={codec.SESSION: 1}, put={codec.JOBS + "j": codec.encode(again)}))

    await one.alarm(takes_back, chance=0.0)
    assert storage.alarm == NOW + 5 + TEND


async def test_nothing_to_look_after_has_no_alarm() -> None:
    storage = Storage()
    one = opened(storage)
    await one.write(Batch(put={"other": "1"}))
    await one.alarm(nothing, chance=0.0)
    assert storage.alarm is None
