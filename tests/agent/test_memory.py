"""The CLAUDE.md files of a workspace, which an agent wrote."""

import os
from pathlib import Path

import pytest

from overnight.agent.memory import LIMIT, instructions


def test_all_files_are_given_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    (tmp_path / "CLAUDE.local.md").write_text("three")
    (tmp_path / "CLAUDE.md").write_text("one")
    (tmp_path / ".claude" / "CLAUDE.md").write_text("two")
    text = instructions(tmp_path)
    assert text.index("one") < text.index("two") < text.index("three")
    assert "Contents of .claude/CLAUDE.md" in text


def test_no_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "CLAUDE.md").write_text(" \n")
    assert instructions(tmp_path) == ""
    assert instructions(tmp_path / "absent") == ""


@pytest.mark.parametrize("place", ["CLAUDE.md", ".claude"])
def test_links_are_not_followed(tmp_path: Path, place: str) -> None:
    files, outside = tmp_path / "files", tmp_path / "outside"
    files.mkdir()
    outside.mkdir()
    (outside / "CLAUDE.md").write_text("SECRET")
    (files / place).symlink_to(outside / "CLAUDE.md" if place == "CLAUDE.md" else outside)
    assert instructions(files) == ""


def test_a_pipe_or_directory_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "CLAUDE.md")
    (tmp_path / "CLAUDE.local.md").mkdir()
    assert instructions(tmp_path) == ""


def test_what_is_too_long_is_cut_and_what_is_not_text_is_read_as_well_as_can_be(tmp_path: Path) -> None:
    (tmp_path / "CLAUDE.md").write_text("x" * (LIMIT * 5))
    (tmp_path / "CLAUDE.local.md").write_bytes(b"caf\xe9")
    text = instructions(tmp_path)
    assert text.count("x") < LIMIT + 100
    assert "only its first 40000 characters" in text
    assert "caf\ufffd" in text
