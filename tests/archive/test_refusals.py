"""Every refusal of the judging phase, for a stranger's zip and for one of ours; nothing is ever left behind."""

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from overnight.archive import (
    OWN,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    UPLOAD,
    ArchiveRefused,
    Caps,
    Profile,
    Refusal,
    inspect,
    unpack,
)

LINK = stat.S_IFLNK | 0o777
Forge = Callable[..., Path]
Entries = list[tuple[str, bytes] | tuple[str, bytes, int]]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Path, Profile], Refusal]:
    """Unpacks, expects a refusal, and checks that neither target nor anything beside it was left."""

    def run(path: Path, profile: Profile) -> Refusal:
        place = tmp_path / "place"
        place.mkdir(exist_ok=True)
        with pytest.raises(ArchiveRefused) as caught:
            unpack(path, {"": place / "files", TRANSCRIPT_PREFIX: place / "talk"}, profile=profile)
        assert list(place.iterdir()) == []
        return caught.value.reason_code

    return run


Refused = Callable[[Path, Profile], Refusal]

BAD_NAMES = [
    "/etc/passwd", "../up", "a/../../up", "a/..", "..", ".", "./a", "a//b", "a/./b", "", "/", "//",
    "x" * 256, "/".join(["d"] * 65), "/".join(["x" * 200] * 20), "nul\0cut",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:20]))
@pytest.mark.parametrize("profile", [OWN, UPLOAD], ids=["own", "upload"])
def test_names_that_could_lead_out_are_refused(
    name: str, profile: Profile, forge: Forge, refused: Refused
) -> None:
    path = forge((name, b"", stat.S_IFDIR | 0o755) if name.endswith("/") else (name, b"x"))
    assert refused(path, profile) is Refusal.UNSAFE_NAME


@pytest.mark.parametrize("name", ["back\\slash", "C:x", "new\nline", "esc\x1b[31m", "del\x7f", "c1\x85"])
def test_names_that_other_systems_misread_are_refused_from_strangers_only(
    name: str, forge: Forge, refused: Refused, tmp_path: Path
) -> None:
    path = forge((name, b"x"))
    assert refused(path, UPLOAD) is Refusal.UNSAFE_NAME
    unpack(path, {"": tmp_path / "ours"}, profile=OWN)
    assert (tmp_path / "ours" / name).read_bytes() == b"x"


@pytest.mark.parametrize(
    "pair", [("README", "readme"), ("caf\u00e9", "cafe\u0301"), ("A/x", "a/y"), ("\u00df", "SS")]
)
def test_twins_are_refused_from_strangers_only(
    pair: tuple[str, str], forge: Forge, refused: Refused, tmp_path: Path
) -> None:
    path = forge(*((name, name.encode()) for name in pair))
    assert refused(path, UPLOAD) is Refusal.CLASHING_NAMES
    unpack(path, {"": tmp_path / "ours"}, profile=OWN)
    assert [(tmp_path / "ours" / name).read_text() for name in pair] == list(pair)


CLASHES: list[Entries] = [
    [("a", b"1"), ("a", b"2")],
    [("a", b"1"), ("a/", b"", stat.S_IFDIR | 0o755)],
    [("a", b"1"), ("a/b", b"2")],
    [("a/b/c", b"2"), ("a", b"1")],
    [("a", b"/etc", LINK), ("a/passwd", b"x")],
    [("a", b".", LINK), ("a/b", b"x")],
]


@pytest.mark.parametrize("entries", CLASHES, ids=range(len(CLASHES)))
@pytest.mark.parametrize("profile", [OWN, UPLOAD], ids=["own", "upload"])
def test_two_natures_of_one_name_are_refused(
    entries: Entries, profile: Profile, forge: Forge, refused: Refused
) -> None:
    assert refused(forge(*entries), profile) is Refusal.CLASHING_NAMES


BAD_LINKS: list[Entries] = [
    [("l", b"/etc/passwd", LINK)],
    [("l", b"..", LINK)],
    [("d/l", b"../../x", LINK)],
    [("d/l", b"x/../../../y", LINK)],
    [("l", b"a\\b", LINK)],
    [("l", b"a\nb", LINK)],
    [("l", b"\xff", LINK)],
    # Every step is looked up: thousands of such links would take minutes.
    [("l", b"./" * 2000 + b"x", LINK)],
    # `d/root` is the root of the tree, so its `..` is outside, whatever the text looks like.
    [("d/root", b"..", LINK), ("l", b"d/root/../x", LINK)],
    [("d/Root", b"..", LINK), ("l", b"d/rOOT/../x", LINK)],
    # A transcript is restored elsewhere: what is inward in the zip is outward there.
    [(f"{TRANSCRIPT_PREFIX}/l", b"../../x", LINK)],
]


@pytest.mark.parametrize("entries", BAD_LINKS, ids=range(len(BAD_LINKS)))
def test_links_that_lead_out_are_refused_from_strangers(
    entries: Entries, forge: Forge, refused: Refused
) -> None:
    assert refused(forge(*entries), UPLOAD) is Refusal.UNSAFE_LINK


@pytest.mark.parametrize("target", [b"", b"x" * 4097, b"nul\0"], ids=["empty", "long", "nul"])
@pytest.mark.parametrize("profile", [OWN, UPLOAD], ids=["own", "upload"])
def test_impossible_links_are_refused(
    target: bytes, profile: Profile, forge: Forge, refused: Refused
) -> None:
    assert refused(forge(("l", target, LINK)), profile) is Refusal.UNSAFE_LINK


def test_inward_links_are_kept(forge: Forge, tmp_path: Path) -> None:
    path = forge(("d/up", b"../f", LINK), ("f", b"x"), ("again", b"d/up", LINK), ("here", b".", LINK))
    unpack(path, {"": tmp_path / "new"}, profile=UPLOAD)
    assert (tmp_path / "new" / "again").read_bytes() == b"x"
    assert os.readlink(tmp_path / "new" / "here") == "."  # noqa: PTH115 - the text, not a path


@pytest.mark.parametrize("form", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR])
@pytest.mark.parametrize("profile", [OWN, UPLOAD], ids=["own", "upload"])
def test_special_files_are_refused(form: int, profile: Profile, forge: Forge, refused: Refused) -> None:
    assert refused(forge(("dev", b"", form | 0o666)), profile) is Refusal.SPECIAL_FILE


TIGHT = Caps(entries=3, file_bytes=10, content_bytes=15, archive_bytes=1000, directory_bytes=170)
OVER: list[Entries] = [
    [("a", b""), ("b", b""), ("c", b""), ("d", b"")],
    [("a/b/c/d", b"")],
    [("a", b"x" * 11)],
    [("a", b"x" * 8), ("b", b"x" * 8)],
    [("a" * 130, b"")],
    [("a", b"x" * 1001)],
]


@pytest.mark.parametrize(
    "entries", OVER, ids=["entries", "implied", "file", "content", "directory", "archive"]
)
def test_caps_hold(entries: Entries, forge: Forge, refused: Refused) -> None:
    assert refused(forge(*entries), replace(UPLOAD, caps=TIGHT)) is Refusal.TOO_LARGE


def test_a_bomb_is_refused_by_ratio_from_strangers_only(
    forge: Forge, refused: Refused, tmp_path: Path
) -> None:
    path = forge(("zeros", bytes(8 << 20)), method=zipfile.ZIP_DEFLATED)
    assert refused(path, UPLOAD) is Refusal.TOO_LARGE
    unpack(path, {"": tmp_path / "ours"}, profile=OWN)
    assert (tmp_path / "ours" / "zeros").stat().st_size == 8 << 20


def test_a_bomb_that_lies_about_its_size_stops_at_what_it_declared(
    forge: Forge, refused: Refused, tmp_path: Path
) -> None:
    path = forge(("zeros", bytes(8 << 20)), method=zipfile.ZIP_DEFLATED)
    forged = path.read_bytes().replace(struct.pack("<L", 8 << 20), struct.pack("<L", 1000))
    path.write_bytes(forged)
    assert refused(path, UPLOAD) is Refusal.DAMAGED


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_other_methods_are_refused(method: int, forge: Forge, refused: Refused) -> None:
    assert refused(forge(("a", b"x" * 100), method=method), UPLOAD) is Refusal.UNSUPPORTED


def patched(path: Path, signature: bytes, offset: int, new: bytes, *, last: bool = False) -> Path:
    raw = bytearray(path.read_bytes())
    at = (raw.rindex(signature) if last else raw.index(signature)) + offset
    raw[at : at + len(new)] = new
    path.write_bytes(raw)
    return path


CENTRAL, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"


@pytest.mark.parametrize(
    ("signature", "offset", "new", "code"),
    [
        (CENTRAL, 8, b"\x01\x00", Refusal.UNSUPPORTED),  # encrypted
        (CENTRAL, 8, b"\x20\x00", Refusal.UNSUPPORTED),  # patch data
        (CENTRAL, 34, b"\x01\x00", Refusal.UNSUPPORTED),  # another volume
        (END, 4, b"\x01\x00", Refusal.UNSUPPORTED),
        (END, 8, b"\x01\x00\x01\x00", Refusal.DAMAGED),  # a count that lies
        (END, 12, b"\x01\x00\x00\x00", Refusal.DAMAGED),  # a size that lies
        (END, 16, b"\x00\x00\x00\x00", Refusal.DAMAGED),  # an offset that lies
        (LOCAL, 30, b"z", Refusal.DAMAGED),  # two names
        (LOCAL, 14, b"\0\0\0\0", Refusal.DAMAGED),  # two checksums
        (LOCAL, 8, b"\x08\x00", Refusal.DAMAGED),  # two methods
        (CENTRAL, 16, b"\0\0\0\0", Refusal.DAMAGED),
    ],
)
def test_records_that_contradict_one_another_are_refused(
    signature: bytes, offset: int, new: bytes, code: Refusal, forge: Forge, refused: Refused
) -> None:
    assert refused(patched(forge(("a", b"one"), ("b", b"two")), signature, offset, new), UPLOAD) is code


def test_a_wrong_checksum_leaves_nothing(forge: Forge, refused: Refused) -> None:
    path = forge(("a", b"first"), ("b", b"needle"))
    path.write_bytes(path.read_bytes().replace(b"needle", b"poodle"))
    assert refused(path, OWN) is Refusal.DAMAGED


def test_entries_that_share_bytes_are_refused(forge: Forge, refused: Refused) -> None:
    """The way to a bomb of any size: many names for one content."""
    path = forge(("a", b"x" * 100), ("b", b"x" * 100))
    assert refused(patched(path, CENTRAL, 42, b"\0\0\0\0", last=True), UPLOAD) is Refusal.DAMAGED


def test_an_archive_hidden_in_the_comment_is_refused(forge: Forge, refused: Refused) -> None:
    """The standard library lists the hidden one, others the outer one."""
    hidden = forge(("hidden", b"h")).read_bytes()
    path = forge(("shown", b"s"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = hidden
    assert refused(path, UPLOAD) is Refusal.DAMAGED


@pytest.mark.parametrize("where", ["before", "behind", "between"])
def test_bytes_of_nobody_are_refused(where: str, forge: Forge, refused: Refused) -> None:
    path = forge(("a", b"aa"))
    raw = path.read_bytes()
    if where == "between":
        start = raw.index(CENTRAL)
        raw = raw[:start] + b"stray" + raw[start:-6] + struct.pack("<LH", start + 5, 0)
    path.write_bytes({"before": b"stray" + raw, "behind": raw + b"stray", "between": raw}[where])
    assert refused(path, UPLOAD) is Refusal.DAMAGED


def test_a_program_in_front_of_an_archive_is_refused(tmp_path: Path, refused: Refused) -> None:
    """A self-extracting zip, whose every offset is right."""
    path = tmp_path / "sfx.zip"
    path.write_bytes(b"#!/bin/sh\nexit 1\n")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a", b"x")
    assert refused(path, UPLOAD) is Refusal.DAMAGED


@pytest.mark.parametrize("raw", [b"", b"PK", b"not a zip" * 100, b"PK\5\6"], ids=range(4))
def test_what_is_no_zip_is_refused(raw: bytes, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "x.zip").write_bytes(raw)
    assert refused(tmp_path / "x.zip", UPLOAD) is Refusal.NOT_A_ZIP


def test_a_session_record_too_large_to_hold_in_memory_is_refused(forge: Forge, refused: Refused) -> None:
    assert refused(forge((SESSION_ENTRY, bytes(2 << 20))), OWN) is Refusal.TOO_LARGE


def test_an_empty_zip_is_an_empty_workspace(forge: Forge, tmp_path: Path) -> None:
    assert unpack(forge(), {"": tmp_path / "new"}, profile=UPLOAD).session is None
    assert list((tmp_path / "new").iterdir()) == []


def test_unknown_entries_of_ours_are_ignored(forge: Forge, tmp_path: Path) -> None:
    path = forge((".overnight/later.json", b"{}"), ("kept", b"x"), (f"{TRANSCRIPT_PREFIX}/s.jsonl", b"{}"))
    unpack(path, {"": tmp_path / "new"}, profile=UPLOAD)
    assert [child.name for child in (tmp_path / "new").iterdir()] == ["kept"]


def test_messages_never_repeat_a_name(forge: Forge) -> None:
    with pytest.raises(ArchiveRefused) as caught:
        inspect(forge(("fine", b"x"), ("../secret-name", b"x")), profile=UPLOAD)
    assert "secret-name" not in str(caught.value)
    assert "entry 2" in str(caught.value)
