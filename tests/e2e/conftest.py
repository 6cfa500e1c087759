"""A real service for each test, on the rehearsal API; see service.py."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.service import Service, Start, services


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with services(tmp_path) as begin:
        yield begin


@pytest.fixture
async def service(start: Start) -> Service:
    return await start()


@pytest.fixture
def mark() -> str:
    """Digits that stand in the command lines of this test's runs alone; as seconds, longer than any test."""
    return str(random.randrange(10**8, 10**9))
