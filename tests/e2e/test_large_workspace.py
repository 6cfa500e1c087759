"""A workspace of hundreds of megabytes goes to another machine whole, and costs its workers no memory to speak of.

`python -m bench.large_workspace` does the same with 2 GiB.
"""

import shutil
from pathlib import Path

import pytest
from bench.large_workspace import MOST_ABOVE_IDLE, STORES, carry

pytestmark = pytest.mark.e2e

MIB = 200


@pytest.mark.parametrize("kind", STORES)
async def test_it_is_restored_on_another_machine_with_the_same_checksums(kind: str, tmp_path: Path) -> None:
    try:
        carried = await carry(MIB, kind, tmp_path)
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
    assert carried.whole, carried
    assert carried.busiest <= MOST_ABOVE_IDLE
