"""Our archives in the hands of other tools, and theirs in ours: what each keeps of a tree (facts: archive 11)."""

import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from overnight.archive import UPLOAD, Part, pack, unpack

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]
Tool = Callable[[Path, Path], None]
ODD_SECOND = 1_600_000_001
"""Steps of two seconds, all that the date of DOS has, would show."""


def installed(*names: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"{names[0]} is not installed")
    return found


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What every tool here keeps: modes, times in seconds, links, empty directories, case twins, long and deep."""
    root = tmp_path / "tree"
    deep = root.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("bottom")
    (root / "empty").mkdir(mode=0o700)
    for name in ("README", "readme", "caf\u00e9", "with space", "-rf", "x" * 250):
        (root / name).write_text(name * 50)
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o751)
    (root / "link").symlink_to("d/d")
    (root / "dangling").symlink_to("nowhere")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (ODD_SECOND, ODD_SECOND), follow_symlinks=False)
    return root


def kept(found: Mapping[bytes, tuple[str, int, int, bytes]]) -> Mapping[bytes, tuple[str, int, bytes]]:
    """Without times: some tools set none on links and directories."""
    return {
        name: (kind, 0 if kind == "link" else mode, content)
        for name, (kind, mode, _, content) in found.items()
    }


def unzip(archive: Path, target: Path) -> None:
    run(installed("unzip"), "-q", archive, "-d", target, cwd=archive.parent)


def seven_zip_out(archive: Path, target: Path) -> None:
    run(installed("7z", "7zz"), "x", "-bd", f"-o{target}", archive, cwd=archive.parent)


def bsdtar_out(archive: Path, target: Path) -> None:
    target.mkdir()
    run(installed("bsdtar"), "-xpf", archive, "-C", target, cwd=archive.parent)


@pytest.mark.parametrize("extract", [unzip, seven_zip_out, bsdtar_out])
def test_other_tools_restore_our_archive(
    extract: Tool, tree: Path, tmp_path: Path, snapshot: SnapshotOf
) -> None:
    pack([Part(tree, "")], tmp_path / "a.zip")
    extract(tmp_path / "a.zip", tmp_path / "again")
    again = snapshot(tmp_path / "again")
    assert kept(again) == kept(snapshot(tree))
    assert {ticks for kind, _, ticks, _ in again.values() if kind == "file"} == {ODD_SECOND * 10**7}


def info_zip(tree: Path, archive: Path) -> None:
    run(installed("zip"), "-qry", archive, ".", cwd=tree)


def seven_zip_in(tree: Path, archive: Path) -> None:
    run(installed("7z", "7zz"), "a", "-bd", "-tzip", "-snl", archive, ".", cwd=tree)


def bsdtar_in(tree: Path, archive: Path) -> None:
    names = sorted(path.name for path in tree.iterdir())
    run(installed("bsdtar"), "--format", "zip", "-cf", archive, "--", *names, cwd=tree)


@pytest.mark.parametrize("archiver", [info_zip, seven_zip_in, bsdtar_in])
def test_archives_of_other_tools_are_restored(
    archiver: Tool, tree: Path, tmp_path: Path, snapshot: SnapshotOf
) -> None:
    archiver(tree, tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "again"})
    again = snapshot(tmp_path / "again")
    assert kept(again) == kept(snapshot(tree))
    assert {ticks // 10**7 for kind, _, ticks, _ in again.values() if kind == "file"} == {ODD_SECOND}


class OneWay(io.RawIOBase):
    """A stream that cannot seek: sizes and checksums then follow each entry."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        assert isinstance(data, bytes | bytearray | memoryview)
        return self._file.write(data)


def test_a_streamed_archive_of_the_standard_library_is_restored(tmp_path: Path) -> None:
    names = [f"d/{number}" for number in range(300)]
    with (
        (tmp_path / "a.zip").open("wb") as file,
        zipfile.ZipFile(OneWay(file), "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in names:
            archive.writestr(name, name * 200)
    unpack(tmp_path / "a.zip", {"": tmp_path / "new"}, profile=UPLOAD)
    assert all((tmp_path / "new" / name).read_text() == name * 200 for name in names)


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path, snapshot: SnapshotOf) -> None:
    """Ours and those of Info-ZIP; a stranger's are read as those of old DOS, since no other reading is safe."""
    tree = tmp_path / "tree"
    for name in (b"bad\xff", b"\x80\x81/in\xfe", "both \u00e9".encode() + b"\xe9"):
        path = Path(os.fsdecode(os.fsencode(tree) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)
    pack([Part(tree, "")], tmp_path / "a.zip")
    unpack(tmp_path / "a.zip", {"": tmp_path / "again"})
    assert snapshot(tmp_path / "again") == snapshot(tree)
    info_zip(tree, tmp_path / "b.zip")
    unpack(tmp_path / "b.zip", {"": tmp_path / "theirs"})
    assert kept(snapshot(tmp_path / "theirs")) == kept(snapshot(tree))
    unpack(tmp_path / "a.zip", {"": tmp_path / "upload"}, profile=UPLOAD)
    assert (tmp_path / "upload" / "bad\u00a0").read_bytes() == b"bad\xff"
