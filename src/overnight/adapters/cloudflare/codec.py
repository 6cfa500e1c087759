"""The values of the domain as documents, and their names in the ledger."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from overnight.domain.job import Delivery, Event, Job, JobRequest, Session
from overnight.ports import Idempotency

T = TypeVar("T")

SESSION = "session"
JOBS, REQUESTS, EVENTS, DELIVERIES, CLAIMS = "job:", "request:", "event:", "delivery:", "claim:"
ABANDONED = "null"
"""The document of a job that may not be written any more: another request has its idempotency key."""
ROUTE_OBJECTS = 256


class Claim(Struct, frozen=True):
    """Which job an idempotency key stands for. It is written before the job is."""

    fingerprint: str
    job_id: str
    session_id: str
    created_at: float


class Route(Struct, frozen=True):
    """Where a job, or a delivery, is kept."""

    session_id: str
    job_id: str


_decoders: Mapping[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Session, Job, JobRequest, Event, Delivery, Claim, Route)
}


def encode(value: object) -> str:
    """JSON. Half a surrogate pair, which an agent's output can hold and UTF-8 cannot, becomes `?`."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        told = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        return told.encode("utf-8", "replace").decode()


def decode(kind: type[T], body: str) -> T:
    value: T = _decoders[kind].decode(body)
    return value


def session_object(session_id: str) -> str:
    return f"session:{session_id}"


def claim_object(idempotency: Idempotency) -> str:
    """Hashed, because a caller chose the key: an object's name must not be as long as it likes."""
    named = f"{idempotency.owner}\0{idempotency.key}"
    return f"claim:{hashlib.sha256(named.encode()).hexdigest()}"


def owner_object(owner: str) -> str:
    return f"owner:{hashlib.sha256(owner.encode()).hexdigest()}"


def route_object(identifier: str) -> str:
    """Routes are spread over a fixed number of objects, so that none of them is a bottleneck."""
    shard = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:4], "big") % ROUTE_OBJECTS
    return f"routes:{shard:02x}"


def event_key(job_id: str, seq: int) -> str:
    """Padded, so that keys sort as numbers do."""
    return f"{EVENTS}{job_id}:{seq:015d}"


def delivery_key(job_id: str, delivery_id: str) -> str:
    return f"{DELIVERIES}{job_id}:{delivery_id}"
