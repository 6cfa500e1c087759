"""Zips that grow beyond all measure, unpacked by a process with little memory, disk and time."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

_INSIDE = """
import resource, sys
from pathlib import Path
from overnight.archive import UPLOAD, ArchiveRefused, unpack
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 20, 32 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    unpack(Path(sys.argv[1]), {"": Path(sys.argv[2])}, profile=UPLOAD)
except ArchiveRefused as refused:
    print(refused.reason_code)
else:
    print("restored")
"""


def zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join(pieces) + packer.flush()


def zipped(*members: tuple[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def bomb_by_overlap() -> bytes:
    """Each of 2000 records points into the one kernel of 16 MiB (Fifield's bomb, in its plainest form)."""
    kernel, content_size = zeros(16 << 20), 16 << 20
    crc = zlib.crc32(bytes(content_size))
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(kernel), content_size, 1, 0) + b"k"
    records = [
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 788, 20, 0, 8, 0, 33, crc, len(kernel), content_size,
                    5, 0, 0, 0, 0, 0o100644 << 16, 0) + b"k%04d" % number
        for number in range(2000)
    ]  # fmt: skip
    directory, start = b"".join(records), len(head) + len(kernel)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2000, 2000, len(directory), start, 0)
    return head + kernel + directory + end


def bomb_that_lies() -> bytes:
    """It says 100 bytes, in both headers, and holds 256 MiB."""
    size = 256 << 20
    return zipped(("k", bytes(size))).replace(struct.pack("<L", size), struct.pack("<L", 100))


def bomb_by_nesting() -> bytes:
    """A zip of a zip of a zip: only the outermost is unpacked, so it is harmless."""
    inner = bomb_that_lies()
    for number in range(3):
        inner = zipped((f"{number}.zip", inner))
    return inner


def bomb_of_directories() -> bytes:
    """400 names of 60 levels each: few entries, 24 000 directories."""
    names = ["/".join(f"{number}.{level}" for level in range(60)) for number in range(400)]
    return zipped(*((name, b"") for name in names))


def bomb_of_entries() -> bytes:
    """It says 2**40 entries in 100 bytes."""
    whole = zipped(("a", b""))
    _, _, _, _, _, size, start, _ = struct.unpack("<4s4H2LH", whole[-22:])
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return whole[:-22] + end64 + locator + end


@pytest.mark.parametrize(
    ("bomb", "outcome"),
    [
        (bomb_by_overlap, {"damaged", "too_large"}),
        (bomb_that_lies, {"damaged"}),
        (bomb_by_nesting, {"restored"}),
        (bomb_of_directories, {"too_large"}),
        (bomb_of_entries, {"damaged", "too_large"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bomb_costs_little_memory_disk_and_time(bomb: object, outcome: set[str], tmp_path: Path) -> None:
    assert callable(bomb)
    archive, target = tmp_path / "bomb.zip", tmp_path / "target"
    archive.write_bytes(bomb())
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE, str(archive), str(target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() in outcome
    left = {path.name for path in tmp_path.iterdir()} - {"bomb.zip"}
    assert left == ({"target"} if "restored" in outcome else set())
