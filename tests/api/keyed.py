"""A service with keys, and calls that carry one."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from overnight.adapters.memory import MemoryStore, MemoryWakeups
from overnight.adapters.memory_keys import MemoryKeys
from overnight.domain.keys import ApiKey, Scope, digest, new_key, parse_key
from overnight.flows.keyring import KeyRing
from overnight.ports import StorageFull

UNKNOWN = new_key(bytes(40))
UUID = "01900000-0000-7000-8000-000000000000"
MSG = f"msg_{'0' * 32}"


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time


class Keys(MemoryKeys):
    full = False

    async def change(self, key_id: str, decide: Callable[[ApiKey], ApiKey | None]) -> ApiKey:
        if self.full:
            raise StorageFull("the disk is full")
        return await super().change(key_id, decide)


@dataclass
class World:
    """An API with keys. `key(...)` makes one and gives the headers that present it."""

    make: Callable[..., Any]
    clock: Clock = field(default_factory=Clock)
    store: Keys = field(default_factory=Keys)
    made: int = 0

    def __post_init__(self) -> None:
        wakeups = MemoryWakeups()
        jobs = MemoryStore(wakeups, self.clock)
        ring = KeyRing(self.store, self.clock)
        self.service = self.make(keys=ring, clock=self.clock, store=jobs, index=jobs, wakeups=wakeups)

    def client(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return self.service.client()  # type: ignore[no-any-return]  # conftest's Service has no importable name

    async def key(self, owner: str, *scopes: Scope, **changes: Any) -> dict[str, str]:
        self.made += 1
        text = new_key(self.made.to_bytes(8, "big") + bytes(31) + bytes([self.made]))
        presented = parse_key(text)
        key = ApiKey(
            key_id=presented.key_id,
            name=owner,
            secret_sha256=digest(presented.secret),
            scopes=frozenset(scopes or {Scope.SUBMIT, Scope.READ}),
            owner=owner,
            created_at=self.clock.now(),
        )
        await self.store.create(replace(key, **changes))
        self.clock.time += 1.0  # what the ring has read is old now
        return {"Authorization": f"Bearer {text}"}


async def submit(client: httpx.AsyncClient, headers: dict[str, str], **body: Any) -> Any:
    answer = await client.post("/execute", json={"prompt": "p", **body}, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()
