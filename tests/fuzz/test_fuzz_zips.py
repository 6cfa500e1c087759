"""Zips by grammar, with every field a possible lie: refused, or restored as written; nothing else in both cases."""

import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overnight.archive import OWN, TRANSCRIPT_PREFIX, UPLOAD, ArchiveRefused, Profile, inspect, unpack

steady = settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])

UTF8, DESCRIPTOR, ENCRYPTED, STRONG, PATCHED, MASKED = 1 << 11, 1 << 3, 1, 1 << 6, 1 << 5, 1 << 13
FILE, LINK, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755
FULL = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class Lies:
    """What is written in place of the truth, None for the truth itself; `shift` moves the header's offset."""

    local_name: bytes | None = None
    local_size: int | None = None
    local_crc: int | None = None
    local_method: int | None = None
    local_flags: int | None = None
    size: int | None = None
    compressed: int | None = None
    crc: int | None = None
    shift: int = 0
    disk: int = 0
    zip64: bytes | None = None
    wide_fields: int = 0


@dataclass(frozen=True, kw_only=True)
class Member:
    name: bytes
    content: bytes = field(default=b"", repr=False)
    mode: int = FILE
    system: int = 3
    deflated: bool = False
    flags: int = UTF8
    descriptor: bytes | None = None
    padding: bytes = b""
    lies: Lies = Lies()


@dataclass(frozen=True, kw_only=True)
class End:
    count: int = 0
    size: int = 0
    start: int = 0
    comment: bytes = field(default=b"", repr=False)
    trailing: bytes = b""
    leading: bytes = b""
    zip64: bool = False
    twice: bool = False


def forge(members: Sequence[Member], end: End) -> bytes:
    """The counts of `end` are added to the true ones."""
    body, directory = bytearray(end.leading), b""
    for member in members:
        offset = len(body)
        packed = deflate(member.content) if member.deflated else member.content
        body += local(member, packed)
        directory += central(member, packed, offset)
        if end.twice:  # two records that share one entry
            directory += central(replace(member, name=member.name + b"2"), packed, offset)
    count = len(members) * (2 if end.twice else 1) + end.count
    numbers = (count, len(directory) + end.size, len(body) + end.start)
    return bytes(body) + directory + closing(numbers, len(body) + len(directory), end)


def deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def told(lie: int | None, truth: int) -> int:
    return truth if lie is None else lie


def local(member: Member, packed: bytes) -> bytes:
    lies, described = member.lies, member.descriptor is not None
    name = member.name if lies.local_name is None else lies.local_name
    crc = 0 if described else zlib.crc32(member.content)
    numbers = (0, 0) if described else (len(packed), told(lies.local_size, len(member.content)))
    flags = told(lies.local_flags, member.flags | (DESCRIPTOR if described else 0))
    method = told(lies.local_method, 8 if member.deflated else 0)
    head = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 33, told(lies.local_crc, crc), *numbers, len(name), 0
    )
    return head + name + packed + (member.descriptor or b"") + member.padding


def central(member: Member, packed: bytes, offset: int) -> bytes:
    lies, described = member.lies, member.descriptor is not None
    numbers = [
        told(lies.crc, zlib.crc32(member.content)),
        told(lies.compressed, len(packed)),
        told(lies.size, len(member.content)),
    ]
    extra = b"" if lies.zip64 is None else struct.pack("<HH", 1, len(lies.zip64)) + lies.zip64
    if lies.wide_fields & 1:
        numbers[2] = FULL
    if lies.wide_fields & 2:
        numbers[1] = FULL
    where = FULL if lies.wide_fields & 4 else max(offset + lies.shift, 0)
    flags = member.flags | (DESCRIPTOR if described else 0)
    method = 8 if member.deflated else 0
    return (
        struct.pack(
            "<4s6H3L5H2L",
            b"PK\1\2",
            member.system << 8 | 20,
            20,
            flags,
            method,
            0,
            33,
            *numbers,
            len(member.name),
            len(extra),
            0,
            lies.disk,
            0,
            member.mode << 16,
            where,
        )
        + member.name
        + extra
    )


def closing(numbers: tuple[int, int, int], position: int, end: End) -> bytes:
    count, size, start = (max(number, 0) for number in numbers)
    wide = b""
    if end.zip64:
        wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
        wide += struct.pack("<4sLQL", b"PK\6\7", 0, position, 1)
        count, size, start = 0xFFFF, FULL, FULL
    plain = struct.pack(
        "<4s4H2LH",
        b"PK\5\6",
        0,
        0,
        count & 0xFFFF,
        count & 0xFFFF,
        size & FULL,
        start & FULL,
        len(end.comment),
    )
    return wide + plain + end.comment + end.trailing


NAMES = [
    *(b"a", b"a/b", b"a/b/c", b"A", b"b", b"link", b"link/x", b"a/", b"b/", b"deep/" * 70 + b"x", b"n" * 256),
    *(
        b"../x",
        b"a/../../x",
        b"/etc/x",
        b"//x",
        b"a//b",
        b"./a",
        b"a/.",
        b"..",
        b"",
        b"/",
        b"a\0b",
        b"x" * 5000,
    ),
    *(b"C:x", b"C:\\x", b"..\\x", b"a\\b", b"\\\\host\\x", b"CON", b"a\nb", b"\x1b[2J", b"a ", b"a.", b"a:b"),
    *("é".encode(), "e\u0301".encode(), "ﬁ".encode(), b"fi", "ß".encode(), b"SS", b"ss", b"\xff"),
    *(
        b".overnight/session.json",
        b".overnight/transcript/t.jsonl",
        b".overnight/../x",
        b".overnight",
        b".OVERNIGHT/x",
    ),
]
TARGETS = [
    b"a",
    b"..",
    b"../..",
    b"../outside/secret",
    b"/etc/passwd",
    b"link",
    b"./a/../../x",
    b"a\0b",
    b"",
    b"b/..",
]
names = st.one_of(st.sampled_from(NAMES[:11]), st.sampled_from(NAMES[:11]), st.sampled_from(NAMES))
modes = st.one_of(
    st.sampled_from([FILE] * 4 + [LINK, LINK, DIRECTORY, 0, 0o644]),
    st.sampled_from([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFREG | 0o7777, 0xF000]),
)
contents = st.one_of(
    st.sampled_from([b"", b"x", b"hello" * 100, b"PK\3\4" * 20, b"PK\5\6" + bytes(18)]),
    st.sampled_from(TARGETS),
    st.binary(max_size=64),
    st.just(70_000).map(bytes),
)
numbers = st.sampled_from([0, 1, 5, 100, 2**31, FULL - 1, FULL])
maybe = st.one_of(st.none(), st.none(), st.none(), st.none(), numbers)
wide = st.one_of(
    st.none(),
    st.none(),
    st.lists(st.sampled_from([0, 1, 500, 2**32, 2**63, 2**64 - 1]), max_size=3).map(
        lambda values: b"".join(struct.pack("<Q", value) for value in values)
    ),
    st.binary(max_size=7),
)
lies = st.builds(
    Lies,
    local_name=st.one_of(st.none(), st.none(), names),
    local_size=maybe,
    local_crc=maybe,
    local_method=st.sampled_from([None, None, None, 0, 8, 9, 99]),
    local_flags=st.sampled_from([None, None, None, 0, ENCRYPTED, DESCRIPTOR]),
    size=maybe,
    compressed=maybe,
    crc=maybe,
    shift=st.sampled_from([0, 0, 0, -1, 1, -30, 31, 2**31]),
    disk=st.sampled_from([0, 0, 0, 1, 0xFFFF]),
    zip64=wide,
    wide_fields=st.sampled_from([0, 0, 0, 1, 2, 4, 7]),
)
descriptors = st.one_of(st.none(), st.none(), st.sampled_from([0, 8, 12, 13, 16, 20, 24, 40]).map(bytes))
members = st.builds(
    Member,
    name=names,
    content=contents,
    mode=modes,
    system=st.sampled_from([3, 3, 3, 0, 19, 10]),
    deflated=st.booleans(),
    flags=st.sampled_from([UTF8, UTF8, 0, UTF8 | ENCRYPTED, UTF8 | STRONG, UTF8 | PATCHED, UTF8 | MASKED, 6]),
    descriptor=descriptors,
    padding=st.sampled_from([b"", b"", b"", b"", b"hidden"]),
    lies=st.one_of(st.just(Lies()), st.just(Lies()), lies),
)
ends = st.one_of(
    st.just(End()),
    st.just(End()),
    st.just(End(zip64=True)),
    st.builds(
        End,
        count=st.sampled_from([0, 0, 1, -1, 65_000]),
        size=st.sampled_from([0, 0, 1, -1, 2**31]),
        start=st.sampled_from([0, 0, 1, -1, 2**31]),
        comment=st.sampled_from([0, 0, 1, 60_000]).map(bytes) | st.just(b"PK\5\6" + bytes(18)),
        trailing=st.sampled_from([b"", b"", b"\0"]),
        leading=st.sampled_from([b"", b"", b"#!/bin/sh\n"]),
        zip64=st.booleans(),
        twice=st.booleans(),
    ),
)
harmless = st.one_of(
    st.builds(
        Member,
        name=st.sampled_from(
            [b"c", b"d/c", b"d/e/f", b".overnight/transcript/t.jsonl", "é/ü".encode(), b"g.zip"]
        ),
        content=contents,
        deflated=st.booleans(),
        descriptor=st.sampled_from([None, bytes(12), bytes(24)]),
    ),
    st.builds(
        Member,
        name=st.sampled_from([b"l", b"d/l", b"d/e/l"]),
        content=st.sampled_from([b"c", b"d/e", b".", b"e/../c"]),
        mode=st.just(LINK),
    ),
)
plain = st.builds(Member, name=names, content=contents, mode=modes, deflated=st.booleans())
some_harmless = st.lists(harmless, min_size=1, max_size=5, unique_by=lambda member: member.name)
forged = st.one_of(
    st.tuples(some_harmless, st.sampled_from([End(), End(), End(zip64=True), End(comment=b"c")])),
    st.tuples(
        st.builds(lambda good, bad: [*good, bad], some_harmless, st.one_of(plain, members)), st.just(End())
    ),
    st.tuples(some_harmless, ends),
    st.tuples(st.lists(st.one_of(plain, members), max_size=6), ends),
)


@dataclass(frozen=True)
class Place:
    """A directory with a secret beside it, and the two targets of an archive."""

    root: Path

    @property
    def routes(self) -> Mapping[str, Path]:
        return {"": self.root / "work" / "files", TRANSCRIPT_PREFIX: self.root / "work" / "transcripts"}

    def restored(self, archive: bytes, profile: Profile) -> bool:
        """Whether it was; what must hold of the outside is checked in both cases."""
        zipped = self.root / "forged.zip"
        zipped.write_bytes(archive)
        secret = self.root / "outside" / "secret"
        secret.parent.mkdir()
        secret.write_text("untouched")
        (self.root / "work").mkdir()
        try:
            unpack(zipped, self.routes, profile=profile)
        except ArchiveRefused:
            done = False
        else:
            done = True
        assert secret.read_text() == "untouched"
        assert sorted(self.root.iterdir()) == [zipped, secret.parent, self.root / "work"]
        assert [path.name for path in (self.root / "outside").iterdir()] == ["secret"]
        assert sorted((self.root / "work").iterdir()) == (sorted(self.routes.values()) if done else [])
        return done

    def found(self) -> Iterator[Path]:
        for target in self.routes.values():
            for directory, directories, files in os.walk(target):
                yield from (Path(directory, name) for name in (*directories, *files))


def text_of(name: bytes, profile: Profile) -> str:
    """Ours keep their bytes, a stranger's are of old DOS."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437") if profile is UPLOAD else os.fsdecode(name)


def check_tree(place: Place, written: Sequence[Member], profile: Profile) -> None:
    """Only files, directories and links; each file as some member of its name has it; a stranger's links stay."""
    contents = {(text_of(member.name, profile), member.content) for member in written}
    for path in place.found():
        status = path.lstat()
        part = place.routes[TRANSCRIPT_PREFIX]
        inside = path.is_relative_to(part)
        name = (
            f"{TRANSCRIPT_PREFIX}/{path.relative_to(part)}"
            if inside
            else str(path.relative_to(place.routes[""]))
        )
        assert stat.S_IFMT(status.st_mode) in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID)
        if stat.S_ISREG(status.st_mode):
            assert (name, path.read_bytes()) in contents
        elif stat.S_ISLNK(status.st_mode):
            assert (name, os.fsencode(path.readlink())) in contents
            if profile is UPLOAD:
                root = part if inside else place.routes[""]
                assert os.path.realpath(path).startswith(os.path.realpath(root))


@pytest.mark.parametrize("profile", [OWN, UPLOAD], ids=["own", "upload"])
@steady
@given(forged)
@example(([Member(name=b"a", content=b"x"), Member(name=b"link", content=b"a", mode=LINK)], End()))
@example(([Member(name=b"a/b", content=b"x", deflated=True, descriptor=bytes(16))], End(zip64=True)))
@example(([Member(name=b"a", content=b"x")], End(twice=True)))
@example(
    (
        [
            Member(name=b"link", content=b"../outside", mode=LINK),
            Member(name=b"link/secret", content=b"stolen"),
        ],
        End(),
    )
)
@example(
    ([Member(name=b"a", content=b".", mode=LINK), Member(name=b"b", content=b"a/../..", mode=LINK)], End())
)
def test_a_forged_zip_is_refused_or_restored_as_written(
    profile: Profile, story: tuple[list[Member], End]
) -> None:
    written, end = story
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        archive = forge(written, end)
        if place.restored(archive, profile):
            check_tree(place, written, profile)
            assert {entry.name for entry in inspect(place.root / "forged.zip", profile=profile).entries} <= {
                text_of(member.name, profile).removesuffix("/") for member in written
            } | {text_of(member.name + b"2", profile) for member in written if end.twice}
