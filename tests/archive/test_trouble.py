"""What is trouble of our own, or too fresh to be sure of, is never taken for a fact about the tree."""

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from overnight.archive.blocks import LargeFile
from overnight.archive.layout import NS
from overnight.archive.record import is_young
from overnight.archive.walk import omission_of


def test_a_file_is_young_until_a_store_into_a_mapped_page_would_show(tmp_path: Path) -> None:
    """Linux writes dirty pages back within 35 s, and only then does another store change a time."""
    path = tmp_path / "mapped"
    path.write_bytes(b"x")
    status = path.stat()
    assert is_young(status, status.st_ctime_ns + 40 * NS)
    assert not is_young(status, status.st_ctime_ns + 61 * NS)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_trouble_of_our_disk_is_no_fact_about_the_tree(number: int) -> None:
    """Else what cannot be read today is left out, and then deleted with what is excluded."""
    with pytest.raises(OSError, match="trouble"):
        omission_of(OSError(number, "trouble"))


def test_a_large_file_that_cannot_be_read_does_not_end_where_the_trouble_begins() -> None:
    memory = os.open("/proc/self/mem", os.O_RDONLY)  # its first page is not there: EIO
    status = os.stat_result((0o100600, 1, 1, 1, 0, 0, 6 << 20, 0, 0, 0))
    with closing(LargeFile(memory, status)) as file, pytest.raises(OSError, match="Input/output"):
        file.read(0)
