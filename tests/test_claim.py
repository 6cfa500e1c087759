"""A data directory belongs to one kind of ledger: to another its jobs would look erased."""

from pathlib import Path

import pytest

from overnight.settings import SettingsError
from overnight.wiring.claim import Ledger, claim


@pytest.mark.parametrize("first", Ledger)
def test_a_directory_is_one_ledgers_for_good(tmp_path: Path, first: Ledger) -> None:
    claim(tmp_path, first)
    claim(tmp_path, first)
    [other] = set(Ledger) - {first}
    for _ in range(2):
        with pytest.raises(SettingsError, match="OVERNIGHT_DATA"):
            claim(tmp_path, other)
    claim(tmp_path, first)
