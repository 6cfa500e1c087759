from collections.abc import AsyncIterator

import pytest

from overnight.rehearsal import serve_rehearsal

NOW = 1_800_000_000.0


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    async with serve_rehearsal(now=lambda: NOW) as url:
        yield url
