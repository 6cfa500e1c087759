"""Every archive that we make, other programs open: small, large, streamed, and made upon a base."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from overnight.archive import Base, Part, pack

MIB = 1 << 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An incremental one: copied and fresh entries, grown and incompressible large files, links, odd names."""
    place = tmp_path_factory.mktemp("programs")
    tree = place / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    for name, content in {
        "text": b"text " * 1000,
        "caf\u00e9": b"x",
        "log": b"".join(b"line %d\n" % number for number in range(800_000)),
        "sub/noise": os.urandom(5 * MIB),
    }.items():
        (tree / name).write_bytes(content)
    (tree / "link").symlink_to("text")
    pack([Part(tree, "")], place / "1.zip", record=place / "1.record")
    with (tree / "log").open("ab") as file:
        file.write(b"one more line\n")
    (tree / "later").write_bytes(b"later" * 100)
    base = Base(place / "1.zip", place / "1.record")
    packed = pack([Part(tree, "")], place / "2.zip", base=base)
    assert packed.reused_entries == 6
    return place / "2.zip"


@pytest.mark.parametrize("command", ["unzip -tq", "7z t", "bsdtar -tf", "zip -T"])
def test_programs_accept_it(archive: Path, command: str) -> None:
    program, *options = command.split()
    path = shutil.which(program)
    assert path, f"{program} is missing: make dev installs it"
    done = subprocess.run(
        [path, *options, str(archive)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_that_reads_from_a_pipe_accepts_it(archive: Path) -> None:
    """It sees local headers only, and finds the ends of large files by their own ends and descriptors."""
    with archive.open("rb") as file:
        told = subprocess.run(
            ["bsdtar", "-tf", "-"], stdin=file, capture_output=True, timeout=60, check=True
        ).stdout
    assert len(told.splitlines()) == 8


def test_the_standard_library_accepts_it(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.read("log").endswith(b"line 799999\none more line\n")


_PACK_AND_DIE = """
import os, signal, sys
from pathlib import Path
from overnight.archive import Part, pack
tree, target, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def wrote(size):
    if size >= most:
        os.kill(os.getpid(), signal.SIGKILL)
pack([Part(tree, "")], target, wrote=wrote, record=target.with_suffix(".record"))
"""


@pytest.mark.parametrize("written", [1, MIB + 1, 2 * MIB + 1, 3 * MIB])
def test_a_pack_that_is_killed_leaves_no_part_under_the_name(tmp_path: Path, written: int) -> None:
    (tmp_path / "tree").mkdir()
    for name in "abc":
        (tmp_path / "tree" / name).write_bytes(os.urandom(MIB))
    target = tmp_path / "a.zip"
    target.write_bytes(b"the archive before")
    command = [sys.executable, "-c", _PACK_AND_DIE, str(tmp_path / "tree"), str(target), str(written)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    assert target.read_bytes() == b"the archive before"
    assert not target.with_suffix(".record").exists()
