"""Runs the rehearsal API in the event loop of the caller."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable

from overnight.rehearsal.app import rehearsal_app
from overnight.rehearsal.staging import Pauses
from overnight.serving import listen, serving, url_of


def _random_id() -> str:
    return secrets.token_hex(12)


@contextlib.asynccontextmanager
async def serve_rehearsal(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    new_id: Callable[[], str] = _random_id,
    now: Callable[[], float] = time.time,  # noqa: TID251 - run alone, it has no Clock to be given
) -> AsyncIterator[str]:
    """Yields the base URL, as `ANTHROPIC_BASE_URL` takes it. Port 0 takes a free one. Raises OSError.

    Leaving ends the pauses that are under way.
    """
    pauses = Pauses()
    app = rehearsal_app(new_id=new_id, now=now, pauses=pauses)
    listener = listen(host, port)
    async with serving(app, listener):
        try:
            yield url_of(listener)
        finally:
            pauses.close()
