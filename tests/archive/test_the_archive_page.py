"""docs/archive.md says how to use the engine; all that it shows is done here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from overnight.archive import DEFAULT_EXCLUDE, Omission, Part, ignore, inspect, pack, patterns

PAGE = (Path(__file__).parents[2] / "docs" / "archive.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "a.txt").write_text("a" * 20_000)
    (tmp_path / "project" / "link").symlink_to("a.txt")
    return tmp_path


def run(place: Path, *command: str) -> str:
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_commands(place: Path) -> None:
    program = str(Path(sys.executable).with_name("overnight"))
    said = [run(place, program, *line.split()[1:]) for line in BLOCKS["sh"].splitlines()]
    assert said[0].startswith("packed 2 entries into monday.zip: ")
    assert "left out: .git (excluded)" in said[0]
    assert (place / "monday.zip.record").exists()
    assert "bytes are new" in said[1]
    assert "lrwxrwxrwx" in said[2]
    assert (place / "restored" / "a.txt").read_text() == "a" * 20_000


def test_a_pack_without_its_record_is_a_full_one_and_says_so(place: Path) -> None:
    program = str(Path(sys.executable).with_name("overnight"))
    run(place, program, "archive", "pack", "project", "monday.zip")
    (place / "monday.zip.record").unlink()
    assert "packed in full" in run(
        place, program, "archive", "pack", "project", "tuesday.zip", "--base", "monday.zip"
    )


def test_a_copied_tree_is_known_by_its_content(place: Path) -> None:
    program = str(Path(sys.executable).with_name("overnight"))
    run(place, program, "archive", "pack", "project", "monday.zip")
    shutil.copytree(place / "project", place / "copy", symlinks=True)
    command = (program, "archive", "pack", "copy", "tuesday.zip", "--base", "monday.zip")
    assert "copied 0 of them" in run(place, *command)
    assert "copied 1 of them" in run(
        place, *command, "--hash"
    )  # the link is read again, its target being its all


def test_the_python(place: Path) -> None:
    run(place, sys.executable, "-c", BLOCKS["python"])
    assert (place / "again" / "notes.txt").exists()
    assert not (place / "project" / ".git").exists()


def test_the_patterns_and_the_limits_of_them(place: Path) -> None:
    for name in ("x.log", "keep.log", "build", "sub"):
        (place / "project" / name).mkdir() if "." not in name else (place / "project" / name).touch()
    (place / "project" / "sub" / "build").mkdir()
    (place / "project" / ".overnightignore").write_text(BLOCKS[""])
    packed = pack([Part(place / "project", "")], place / "a.zip")
    assert [(out.path, out.reason) for out in packed.left_out if out.path != ".git"] == [
        ("build", Omission.IGNORED),
        ("x.log", Omission.IGNORED),
    ]
    kept = [entry.name for entry in inspect(place / "a.zip").entries]
    assert kept == [".overnightignore", "a.txt", "keep.log", "link", "sub", "sub/build"]
    numbers = (ignore.LARGEST >> 10, patterns.MOST_PATTERNS, patterns.LONGEST)
    assert "At most {} KiB and {} patterns of {} characters".format(*numbers) in PAGE
    assert all(f"`{name}`" in PAGE for name in DEFAULT_EXCLUDE)
