"""Removing a tree: any depth, any mode, never through a link."""

import os
from pathlib import Path

import pytest

from overnight.archive import remove_tree


def test_depth_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_what_they_show_is_not(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "d" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "itself").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "itself")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["kept", "kept/file"]


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_modes_do_not_matter(mode: int, tmp_path: Path) -> None:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "b" / "f").touch()
    for path in ("tree/a/b", "tree/a", "tree"):
        (tmp_path / path).chmod(mode)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_names_like_those_used_for_moving_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "tree" / ".removing-0" / "x").mkdir(parents=True)
    (tmp_path / "tree" / "a" / ".removing-1" / "y").mkdir(parents=True)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")
