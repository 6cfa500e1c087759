"""The edge of overnight as a Cloudflare Worker. It adds no rule: it carries the domain and the API as they are."""

from urllib.parse import urlsplit

from workers import WorkerEntrypoint, asgi

import internal
from bounded import Bounded
from dead_letters import bury
from front import MAX_BODY_BYTES, this_edge
from ledger_object import Ledger

__all__ = ["Default", "Ledger"]


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        edge, url = this_edge(), urlsplit(request.url)
        if url.path.startswith(internal.PREFIX):
            token = getattr(self.env, "OVERNIGHT_LEDGER_TOKEN", None)
            return await internal.answer(edge, request, url.path, url.query, token)
        return await asgi.fetch(edge.app, Bounded(request, MAX_BODY_BYTES), self.env, self.ctx)

    async def queue(self, batch, _env=None, _ctx=None):
        """Of `claude-code-dlq`; the queue of the jobs is pulled by workers."""
        await bury(this_edge(), batch.messages)
