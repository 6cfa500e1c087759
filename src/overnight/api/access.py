"""Who asks, and what of it is theirs. A call with a scope passes the gate before anything of it is read."""

import math
from collections.abc import Iterable
from typing import cast

from starlette.requests import Request
from starlette.types import Scope as AsgiScope

from overnight.api.parts import ApiParts
from overnight.api.problems import Code, Problem
from overnight.api.requests import job_id_of, session_id_of
from overnight.domain.errors import JobNotFound, SessionNotFound
from overnight.domain.job import Job, Session, Snapshot
from overnight.domain.keys import Caller, Scope
from overnight.domain.pace import Bucket, take

CALLER = "overnight.caller"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="overnight"'}
BEARER = b"bearer "


class Gate:
    """Lets a request in by its key. The pace of each key is kept here: it is this process's own."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._paces: dict[str, Bucket] = {}

    async def admit(self, scope: AsgiScope, needs: Scope | None) -> None:
        """Raises Problem, StorageError."""
        if needs is None:
            return
        caller = await self._parts.keys.caller(_presented(scope["headers"]))
        if caller is None:
            raise Problem(Code.UNAUTHENTICATED, headers=CHALLENGE)
        if not caller.may(needs):
            raise Problem(Code.FORBIDDEN, f"The key has no scope `{needs}`. Nothing was done.")
        if needs is Scope.SUBMIT:
            self._hold_to_pace(caller)
        scope[CALLER] = caller

    def _hold_to_pace(self, caller: Caller) -> None:
        """Only keys that are right come here, so there are no more buckets than keys."""
        per_minute = caller.limits.requests_per_minute
        if caller.key_id is None or per_minute is None:
            return
        now = self._parts.clock.now()
        bucket, wait = take(self._paces.get(caller.key_id), per_minute=per_minute, now=now)
        self._paces[caller.key_id] = bucket
        if wait > 0:
            raise Problem(Code.RATE_LIMITED, headers={"Retry-After": str(math.ceil(wait))})


def caller_of(request: Request) -> Caller:
    return cast("Caller", request.scope[CALLER])


async def still_sees(parts: ApiParts, request: Request, job: Job) -> bool:
    """Whether this request for a job would be let in now too. Raises StorageError."""
    caller = await parts.keys.caller(_presented(request.scope["headers"]))
    return caller is not None and caller.may(Scope.READ) and caller.sees(job.owner)


async def job_of(parts: ApiParts, request: Request) -> Snapshot:
    """The job of the path, if it is the caller's. Raises Problem, JobNotFound."""
    snapshot = await parts.store.snapshot(job_id_of(request))
    if not caller_of(request).sees(snapshot.job.owner):
        raise JobNotFound("no such job")
    return snapshot


async def session_of(parts: ApiParts, request: Request) -> Session:
    """The session of the path, if it is the caller's. Raises Problem, SessionNotFound."""
    session = await parts.store.session(session_id_of(request))
    if not caller_of(request).sees(session.owner):
        raise SessionNotFound("no such session")
    return session


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key of the request's headers; None if there is none, or more than one. Any bytes are only wrong."""
    found = {value[len(BEARER) :].strip() for name, value in headers if _is_bearer(name, value)}
    found |= {value for name, value in headers if name == b"x-api-key"}
    return found.pop().decode("latin-1") if len(found) == 1 else None


def _is_bearer(name: bytes, value: bytes) -> bool:
    return name == b"authorization" and value[: len(BEARER)].lower() == BEARER
