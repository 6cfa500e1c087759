"""A tree changes hands: nothing outside of it, and nothing twice."""

import os
import stat
from pathlib import Path

import pytest

from overnight.archive import give_tree, remove_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

OWNER = (42_901, 42_902)


def owner_of(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "a" / "closed").mkdir(mode=0o000)
    os.mkfifo(root / "pipe")
    (root / "dangling").symlink_to("nowhere")
    return root


def test_all_of_it_is_the_new_owners(tree: Path) -> None:
    give_tree(tree, OWNER)
    assert {owner_of(path) for path in (tree, *tree.rglob("*"))} == {OWNER}


def test_what_links_point_to_is_not(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    (tree / "to-directory").symlink_to(outside)
    (tree / "a" / "to-file").symlink_to(outside / "file")
    give_tree(tree, OWNER)
    assert {owner_of(outside), owner_of(outside / "file")} == {(0, 0)}
    assert owner_of(tree / "to-directory") == OWNER


def test_a_link_in_the_place_of_the_tree_is_refused(tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree)
    with pytest.raises(NotADirectoryError):
        give_tree(link, OWNER)
    assert owner_of(tree / "a") == (0, 0)


def test_what_is_theirs_already_keeps_its_ctime(tree: Path) -> None:
    give_tree(tree, OWNER)
    before = {path: path.lstat().st_ctime_ns for path in (tree, *tree.rglob("*"))}
    (tree / "new").write_text("x")
    before[tree] = tree.lstat().st_ctime_ns
    give_tree(tree, OWNER)
    assert {path: path.lstat().st_ctime_ns for path in before} == before
    assert owner_of(tree / "new") == OWNER


def test_set_id_bits_do_not_survive(tree: Path) -> None:
    program = tree / "a" / "program"
    program.write_text("x")
    program.chmod(0o6755)
    give_tree(tree, OWNER)
    assert stat.S_IMODE(program.stat().st_mode) == 0o755


def test_depth_does_not_matter(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    give_tree(tree, OWNER)
    assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == OWNER
    os.close(fd)
    remove_tree(tree)  # what pytest removes it with would end in a RecursionError
