""".overnightignore is gitignore's syntax from a stranger's hand: it may be wrong or hostile, and a pack goes on."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.archive import IGNORE_FILE, Omission, Packed, Part, pack
from overnight.archive.ignore import LARGEST
from overnight.archive.patterns import MOST_PATTERNS, linear


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def packed(tree: Path) -> Packed:
    return pack([Part(tree, "")], tree.parent / "a.zip", exclude=())


FILES = (
    "a",
    "a.log",
    "b/a.log",
    "b/c/d.txt",
    "build/x",
    "b/build/x",
    "foo-bar-baz",
    "b/foobarbaz",
    "deep/x/y/z",
)
PATTERNS = (
    "*.log", "/build/", "build", "!b/build/", "b/**", "**/x/**/z", "foo*bar*baz", "[ab]", "?.log", "# x", "!a.log",
    "d*/x", "\\!x", "b/*/d.txt",
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=5))
def test_it_leaves_out_what_git_ignores(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    git = shutil.which("git")
    assert git, "apt-get install git"
    tree = tmp_path_factory.mktemp("git") / "tree"
    for name in FILES:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    (tree / IGNORE_FILE).write_text("\n".join(lines))
    left_out = {out.path for out in packed(tree).left_out}
    ours = {name for name in FILES if any(name == out or name.startswith(f"{out}/") for out in left_out)}
    (tree / ".gitignore").write_text("\n".join(lines))
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run([git, "init", "-q"], cwd=tree, env=environment, check=True)
    told = subprocess.run(
        [git, "ls-files", "--others", "--exclude-standard"],
        cwd=tree,
        env=environment,
        check=True,
        capture_output=True,
    ).stdout.decode()
    assert ours == set(FILES) - set(told.splitlines())


@given(
    pieces=st.lists(st.text("ab", max_size=2), min_size=1, max_size=5),
    name=st.text("ab", max_size=9),
)
def test_the_rewritten_pattern_means_the_same(pieces: list[str], name: str) -> None:
    regex = f"^(?:.+/)?{'[^/]*'.join(pieces)}$"
    assert bool(re.match(linear(regex), name)) == bool(re.match(regex, name))


def test_no_pattern_takes_long(tree: Path) -> None:
    """As it stands, `*a*a*a*a*a*a*a*a*b` would take longer than the sun will shine."""
    (tree / ("a" * 250)).touch()
    (tree / IGNORE_FILE).write_text(
        "\n".join(["*a" * 60 + "b", "**/*a*a*a*a/**/*a*a*a*a*b", "a**a**a**a**a**a**b"])
    )
    began = time.process_time()
    packed(tree)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b"x" * (LARGEST + 1), "more than"),
        (b"*.q\n" * (MOST_PATTERNS + 3), "3 lines"),
        (b"\\\n[z-a]\n[[a]\n**/a/**/b/**/c\nignored\n", "lines"),
        (b"a" * 500 + b"\nignored", "1 lines"),
    ],
    ids=["large", "many", "wrong", "long"],
)
def test_what_is_not_applied_is_said_and_no_error(tree: Path, content: bytes, note: str) -> None:
    (tree / IGNORE_FILE).write_bytes(content)
    (tree / "ignored").touch()
    done = packed(tree)
    assert note in done.ignore_note
    assert done.left_out_total == (b"\nignored" in content)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_a_real_file_is_read(tree: Path, kind: str) -> None:
    (tree.parent / "elsewhere").write_text("x\n")
    (tree / "x").touch()
    if kind == "link":
        (tree / IGNORE_FILE).symlink_to(tree.parent / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(tree / IGNORE_FILE)
    else:
        (tree / IGNORE_FILE).mkdir()
    assert Omission.IGNORED not in {out.reason for out in packed(tree).left_out}


def test_bytes_that_are_no_text_match_names_of_such_bytes(tree: Path) -> None:
    (tree / IGNORE_FILE).write_bytes(b"bad\xff*\n")
    (tree / os.fsdecode(b"bad\xffname")).touch()
    assert [out.reason for out in packed(tree).left_out] == [Omission.IGNORED]
