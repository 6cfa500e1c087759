"""The disk fills up half-way: the error says so, nothing half-made stays, and what was there before is whole."""

import errno
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from overnight.archive import Part, pack

PROGRAM = Path(__file__).with_name("small_disk.py")
MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$3" && exec "$0" "$@"'
Run = Callable[[str], Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a case on a disk of 4 MiB; beside it lie a small tree and a large one (12 MiB that do not shrink)."""
    for name, sizes in (("small", [1000, 2000]), ("large", [300_000] * 20 + [6 << 20])):
        (tmp_path / name / "d").mkdir(parents=True)
        for number, size in enumerate(sizes):
            (tmp_path / name / "d" / str(number)).write_bytes(random.Random(number).randbytes(size))
        pack([Part(tmp_path / name, "")], tmp_path / f"{name}.zip")
    (tmp_path / "disk").mkdir()

    def on_small_disk(case: str) -> Any:
        command: list[str | Path] = [
            "unshare",
            "-rm",
            "sh",
            "-c",
            MOUNT,
            sys.executable,
            PROGRAM,
            case,
            tmp_path / "disk",
            tmp_path,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode and "unshare" in done.stderr:
            pytest.skip(f"no mount namespace: {done.stderr}")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return on_small_disk


def test_an_unpack_leaves_nothing_and_can_be_done_again(run: Run) -> None:
    seen = run("unpacking")
    assert seen["errno"] == errno.ENOSPC
    assert "No space left" in seen["message"]
    assert seen["before"] == {"other": -1, "other/d": -1, "other/d/0": 1000, "other/d/1": 2000, "target": -1}
    assert seen["after"] == seen["before"]


def test_a_pack_leaves_the_older_archive_and_its_record_alone(run: Run) -> None:
    seen = run("packing")
    assert seen["errno"] == errno.ENOSPC
    assert "No space left" in seen["message"]
    assert list(seen["before"]) == ["a.record", "a.zip"]
    assert seen["after"] == seen["before"]
    assert seen["kept"]


def test_a_copy_into_the_store_leaves_the_older_version_its_alias_and_the_source(
    run: Run, tmp_path: Path
) -> None:
    size = (tmp_path / "small.zip").stat().st_size
    seen = run("storing")
    assert seen["errno"] == errno.ENOSPC
    assert "No space left" in seen["message"]
    assert seen["after"] == seen["before"]
    assert (seen["before"]["store/claude-code/s/a.1.zip"], seen["kept"]) == (size, size)
    assert seen["source"]


def test_a_fetch_leaves_the_older_file(run: Run) -> None:
    seen = run("fetching")
    assert seen["errno"] == errno.ENOSPC
    assert seen["after"] == seen["before"] == {"target.zip": 3}
    assert seen["kept"] == "old"


def test_the_commands_say_what_was_kept_and_what_to_do(run: Run) -> None:
    seen = run("commanding")
    for said in seen["said"]:
        assert said.startswith("overnight: The disk is full.")
        assert "as it was" in said
        assert "Make room" in said
    assert seen["codes"] == [1, 1]
    assert seen["after"] == {}
