"""The record beside an archive: what is written is read again, and what is damaged is no record."""

import stat
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from overnight.archive.record import Record, load, sections_of

COMPONENT = st.binary(min_size=1, max_size=4).filter(lambda name: not {0, ord("/")} & set(name))
MODES = st.sampled_from([stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777])
STATUSES = st.builds(
    lambda rest, mode: rest + mode.to_bytes(4, "little"), st.binary(min_size=32, max_size=32), MODES
)
TREES = st.dictionaries(st.lists(COMPONENT, min_size=1, max_size=3).map(b"/".join), STATUSES, max_size=12)
SHA256 = "ab" * 32


@given(statuses=TREES)
def test_what_is_written_is_read_again(statuses: dict[bytes, bytes]) -> None:
    record = Record(7, SHA256, SHA256, sections_of(statuses))
    with tempfile.TemporaryDirectory() as place:
        record.save(Path(place) / "record")
        read = load(Path(place) / "record")
    assert read == record
    assert read is not None
    assert read.statuses == statuses
    assert sorted(read.names()) == sorted(statuses)


@given(before=TREES, after=TREES)
def test_what_changed_is_what_the_first_has_not_or_has_differently(
    before: dict[bytes, bytes], after: dict[bytes, bytes]
) -> None:
    old, new = (Record(7, None, SHA256, sections_of(statuses)) for statuses in (before, {**before, **after}))
    assert set(new.changed_since(old)) == {name for name in after if before.get(name) != after[name]}


@given(data=st.data())
def test_a_damaged_one_is_none(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "record"
        Record(7, SHA256, SHA256, sections_of({b"a": bytes(36), b"b/c": bytes(36)})).save(path)
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert load(path) is None
        path.write_bytes(whole[:at])
        assert load(path) is None
