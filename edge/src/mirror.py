"""The status of jobs in Workers KV: a cache for GET /status, and never a lock (`mirroring.py` writes it).

KV shows a write elsewhere after a minute or more (facts: cloudflare 4). So each entry says when it was written, and
what may have changed since is asked of the ledger.
"""

import logging

from pyodide.ffi import JsException
from starlette.requests import Request
from starlette.responses import Response

from overnight.adapters.cloudflare.mirroring import SHOWN_SECONDS, status_key
from overnight.api.access import caller_of
from overnight.api.jobs import status as from_ledger
from overnight.api.parts import ApiParts
from overnight.api.requests import job_id_of
from overnight.domain.job import Status
from overnight.ports import Clock, StorageFailed

log = logging.getLogger(__name__)

SETTLED = frozenset({Status.COMPLETED, Status.CANCELLED})
"""A job never leaves these."""
FRESH_SECONDS = 60.0


class ShownInKv:
    """The port `Shown`."""

    def __init__(self, namespace):
        self._namespace = namespace

    async def put(self, key: str, value: str, metadata) -> None:
        """Its time is given with every write: one without it would drop it."""
        await _done(self._namespace.put(key, value, {"expirationTtl": SHOWN_SECONDS, "metadata": metadata}))

    async def delete(self, key: str) -> None:
        await _done(self._namespace.delete(key))


async def _done(call) -> None:
    try:
        await call
    except JsException as error:
        raise StorageFailed("KV did not take it.") from error


class Mirror:
    """What KV answers of a status, and what it leaves to the ledger."""

    def __init__(self, namespace, clock: Clock):
        self._namespace = namespace
        self._clock = clock

    async def status(self, parts: ApiParts, request: Request) -> Response:
        """A job as it was a moment ago: at most a minute, while it runs."""
        entry = await self._entry(job_id_of(request))
        if entry is None or not self._answers(entry["metadata"]):
            return await from_ledger(parts, request)
        if not caller_of(request).sees(entry["metadata"]["owner"]):
            return await from_ledger(parts, request)  # it says that there is no such job
        return Response(entry["value"].encode(), 200, {"Cache-Control": "no-store"}, "application/json")

    def _answers(self, metadata) -> bool:
        """The place in the line is not mirrored when others move, so a queued job is asked about in the ledger. So is
        a failed one: it may have been sent again."""
        fresh = self._clock.now() - metadata["at"] < FRESH_SECONDS
        return metadata["status"] in SETTLED or (metadata["status"] == Status.PROCESSING and fresh)

    async def _entry(self, job_id: str):
        try:
            found = await self._namespace.getWithMetadata(status_key(job_id))
        except JsException:
            log.exception("could not read the mirror")
            return None
        return found if found["value"] is not None and found["metadata"] is not None else None
