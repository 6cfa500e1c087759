"""Damaged input: one kind of error or a right result, never anything else, never anything left."""

import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.archive import (
    OWN,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    UPLOAD,
    ArchiveRefused,
    Part,
    Profile,
    pack,
    unpack,
)

SnapshotOf = Callable[[Path], Mapping[bytes, tuple[str, int, int, bytes]]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("damage")
    (place / "tree" / "d").mkdir(parents=True)
    (place / "tree" / "d" / "text").write_text("compressible " * 30)
    (place / "tree" / "link").symlink_to("d/text")
    (place / "talk").mkdir()
    parts = [Part(place / "tree", ""), Part(place / "talk", TRANSCRIPT_PREFIX)]
    pack(parts, place / "a.zip", entries={SESSION_ENTRY: b"{}"})
    return (place / "a.zip").read_bytes()


def contents(raw: bytes, profile: Profile, snapshot: SnapshotOf) -> list[bytes] | None:
    """The contents and targets restored, or None for a refusal; in both cases nothing else is left."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "a.zip").write_bytes(raw)
        try:
            unpack(place / "a.zip", {"": place / "f", TRANSCRIPT_PREFIX: place / "t"}, profile=profile)
        except ArchiveRefused:
            assert [child.name for child in place.iterdir()] == ["a.zip"]
            return None
        assert sorted(child.name for child in place.iterdir()) == ["a.zip", "f", "t"]
        found = [*snapshot(place / "f").values(), *snapshot(place / "t").values()]
        return sorted(content for _, _, _, content in found)


def test_a_flipped_byte_is_refused_or_harmless(archive: bytes, snapshot: SnapshotOf) -> None:
    """Flips in names, modes and times give another tree, but no byte of content ever comes out wrong."""
    whole = contents(archive, OWN, snapshot)
    assert whole is not None
    known = set(whole)
    generator = random.Random(7)
    for at in range(len(archive)):
        flipped = bytearray(archive)
        flipped[at] ^= 1 << generator.randrange(8)
        found = contents(bytes(flipped), generator.choice([OWN, UPLOAD]), snapshot)
        assert found is None or set(found) <= known


def test_a_cut_archive_is_refused_at_every_length(archive: bytes, snapshot: SnapshotOf) -> None:
    for length in range(len(archive)):
        assert contents(archive[:length], OWN, snapshot) is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=6
    )
)
def test_any_mangling_ends_in_a_refusal_or_a_tree(
    archive: bytes, edits: list[tuple[int, bytes, int]], snapshot: SnapshotOf
) -> None:
    raw = archive
    for at, new, dropped in edits:
        place = at % len(raw) if raw else 0
        raw = raw[:place] + new + raw[place + dropped :]
    contents(raw, UPLOAD, snapshot)
    contents(raw, OWN, snapshot)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300), profile=st.sampled_from([OWN, UPLOAD]))
def test_noise_before_a_true_end_is_no_archive_of_ours(
    archive: bytes, noise: bytes, profile: Profile, snapshot: SnapshotOf
) -> None:
    contents(noise + archive[-22:], profile, snapshot)
