"""What is about to be stored is searched for secrets: in text files and in the transcript, within limits."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.archive.workspaces import Workspace

from overnight.archive import TRANSCRIPT_PREFIX, Part, SecretFound, pack, scan
from overnight.domain.redaction import Redactor

SECRET = "s3cr3t-canary"
MIB = 1 << 20


def count(text: str) -> Counter[str]:
    return Counter({"canary": text.count(SECRET)} if SECRET in text else {})


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def make(files: dict[str, bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        parts = [
            Part(tmp_path / "tree" / part, prefix)
            for part, prefix in PARTS
            if (tmp_path / "tree" / part).is_dir()
        ]
        pack(parts, tmp_path / "a.zip")
        return tmp_path / "a.zip"

    return make


PARTS = (("files", ""), ("talk", TRANSCRIPT_PREFIX))
Packed = Callable[[dict[str, bytes]], Path]


def test_a_finding_in_a_file_whose_name_is_not_utf8_can_be_told(packed: Packed) -> None:
    found = scan(packed({os.fsdecode(b"files/bad\xff"): SECRET.encode()}), count).found
    assert found == (SecretFound("bad\\xff", "canary", 1),)


def test_findings_name_the_file_the_kind_and_the_number(packed: Packed) -> None:
    key = SECRET.encode()
    path = packed({"files/a/.env": b"K=" + key + b"\nL=" + key, "files/b": b"none", "talk/s.jsonl": key})
    found = scan(path, count)
    assert set(found.found) == {
        SecretFound("a/.env", "canary", 2),
        SecretFound(f"{TRANSCRIPT_PREFIX}/s.jsonl", "canary", 1),
    }
    assert (found.found_total, found.whole) == (2, True)


@pytest.mark.parametrize("before", [0, MIB - len(SECRET), MIB - 5, MIB - 1, MIB, 2 * MIB - 6, 3 * MIB + 7])
def test_a_long_transcript_is_searched_whole_and_nothing_is_counted_twice(
    before: int, packed: Packed
) -> None:
    talk = b"x" * before + SECRET.encode() + b"y" * (4 * MIB)
    assert [one.count for one in scan(packed({"talk/s.jsonl": talk}), count).found] == [1]


def test_large_and_binary_files_of_the_workspace_are_passed_over(packed: Packed) -> None:
    key = SECRET.encode()
    path = packed({"files/large": b"x" * MIB + key, "files/program": b"\x7fELF\0\0" + key})
    assert scan(path, count).found == ()


def test_the_list_is_cut_and_the_total_is_not(packed: Packed) -> None:
    found = scan(packed({f"files/{n:03}": SECRET.encode() for n in range(70)}), count)
    assert (len(found.found), found.found_total) == (50, 70)


def test_only_named_entries_are_looked_at_for_secrets(workspace: Workspace) -> None:
    (workspace.tree / "old").write_text("canary")
    (workspace.tree / "new").write_text("canary")
    workspace.pack()
    found = scan(workspace.archive, lambda text: Counter(canary=text.count("canary")), names={"new"})
    assert found.found == (SecretFound("new", "canary", 1),)


HIDDEN = {
    "behind a mebibyte": {"files/large": b"x" * (MIB + 1) + SECRET.encode()},
    "behind a zero": {"files/program": b"\x7fELF\0\0" + SECRET.encode()},
    "in the middle of a program": {"files/program": b"\0" * (2 * MIB - 5) + SECRET.encode() + b"\0" * MIB},
    "in a name": {f"files/{SECRET}": b""},
}


@pytest.mark.parametrize("files", HIDDEN.values(), ids=HIDDEN)
def test_a_scan_of_all_finds_what_one_within_limits_passes_over(
    files: dict[str, bytes], packed: Packed
) -> None:
    path = packed(files)
    assert scan(path, count).found == ()
    found = scan(path, count, all_of_it=True)
    assert [(one.kind, one.count) for one in found.found] == [("canary", 1)]
    assert found.whole


def test_a_scan_of_all_looks_at_what_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(SECRET)
    pack([Part(tmp_path / "tree", "")], tmp_path / "a.zip")
    assert scan(tmp_path / "a.zip", count, all_of_it=True).found == (SecretFound("link", "canary", 1),)


def test_a_pattern_does_not_reach_from_one_string_of_a_program_into_the_next(packed: Packed) -> None:
    """Else many a program would hold something like the user and the password of a URL."""
    path = packed({"files/program": b"\x7fELF\0https://\0user:\0pass@host\0"})
    assert scan(path, Redactor().count, all_of_it=True).found == ()
