"""One object of the ledger on real SQLite: versions, spans, large documents, and what a write costs."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from bench.counted import CountedDocuments
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Read, Span
from overnight.adapters.cloudflare.object_rows import PIECE_CHARACTERS

ROW_BYTES = 2_000_000
"""What one value of a Durable Object takes at most."""


class Object:
    """One object, whose clock stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1.0
        self.documents = CountedDocuments(lambda: self.now)
        self.counts = self.documents.counts

    def write(self, batch: Batch) -> bool:
        return asyncio.run(self.documents.write("o", batch))

    def read(self, **asked: Any) -> Mapping[str, Document]:
        return asyncio.run(self.documents.read("o", Read(**asked)))

    def all(self) -> dict[str, str]:
        return {key: document.body for key, document in self.read(spans=[Span("")]).items()}

    def version(self, key: str) -> int:
        found = self.read(keys=[key])
        return found[key].version if key in found else ABSENT


@pytest.fixture
def one() -> Object:
    made = Object()
    made.write(Batch(put={"other": "0"}))
    return made


def rows_of(one: Object, batch: Batch) -> int:
    before = one.counts.rows_written
    assert one.write(batch)
    return one.counts.rows_written - before


def test_a_document_is_one_row_and_one_that_is_refused_is_none(one: Object) -> None:
    assert rows_of(one, Batch(put={"a": "1"})) == 1
    assert rows_of(one, Batch(put={"a": "2", "b": "1", "c": "1"})) == 3
    before = one.counts.rows_written
    assert not one.write(Batch(expect={"a": ABSENT}, put={"a": "3", "b": "3"}))
    assert one.counts.rows_written == before
    assert one.all() == {"a": "2", "b": "1", "c": "1", "other": "0"}


@pytest.mark.parametrize("body", ["x" * 3_000_000, "é" * 1_500_000, "😀" * 750_000, ""])
def test_a_body_of_any_size_comes_back_whole_in_rows_that_are_taken(one: Object, body: str) -> None:
    one.write(Batch(put={"a": "small"}))
    one.write(Batch(put={"a": body, "b": "1"}))
    assert one.read(keys=["a"])["a"].body == body
    assert one.all() == {"a": body, "b": "1", "other": "0"}
    assert one.counts.largest <= ROW_BYTES


def test_nothing_stays_of_a_large_body_that_became_small(one: Object) -> None:
    one.write(Batch(put={"a": "x" * (3 * PIECE_CHARACTERS)}))
    one.write(Batch(put={"a": "y"}))
    one.write(Batch(put={"a": "z" * (PIECE_CHARACTERS + 1)}))
    assert one.read(keys=["a"])["a"].body == "z" * (PIECE_CHARACTERS + 1)
    one.write(Batch(delete=["a"]))
    assert one.all() == {"other": "0"}


def test_a_span_counts_documents_and_not_rows(one: Object) -> None:
    one.write(Batch(put={"e:1": "x" * (3 * PIECE_CHARACTERS), "e:2": "2", "e:3": "3", "f:1": "4"}))
    assert list(one.read(spans=[Span("e:", limit=2)])) == ["e:1", "e:2"]
    assert list(one.read(spans=[Span("e:", after="e:1")])) == ["e:2", "e:3"]
    names = one.read(spans=[Span("e:", bodies=False)])
    assert [(key, document.body) for key, document in names.items()] == [
        ("e:1", ""),
        ("e:2", ""),
        ("e:3", ""),
    ]


def test_a_span_of_large_bodies_ends_early_but_has_one(one: Object) -> None:
    """An isolate has little memory, and a reader that gets nothing would never go on."""
    sizes = {"e:1": 3 * PIECE_CHARACTERS, "e:2": 10, "e:3": 90, "e:4": 1}
    one.write(Batch(put={key: "x" * size for key, size in sizes.items()}))

    def found(**span: Any) -> list[str]:
        return list(one.read(spans=[Span("e:", most_characters=100, **span)]))

    assert found() == ["e:1"]
    assert found(after="e:1") == ["e:2", "e:3"]
    assert found(after="e:1", limit=1) == ["e:2"]
    assert found(after="e:3") == ["e:4"]
    assert found(after="e:4") == []


def test_the_object_knows_when_a_document_was_written(one: Object) -> None:
    one.now = 5.0
    one.write(Batch(put={"a": "1"}))
    one.now = 9.0
    one.write(Batch(put={"b": "1"}))
    assert [one.documents.written_at("o", key) for key in ("a", "b", "c")] == [5.0, 9.0, None]


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "delete", "both", "wipe"])), max_size=30
)


@given(steps)
@settings(deadline=None)
def test_versions_only_grow_whatever_is_deleted(taken: list[tuple[str, str]]) -> None:
    """Else a writer that had looked before could write over what came after."""
    one, seen = Object(), dict.fromkeys("abc", 0)
    for key, step in taken:
        put = {key: "1"} if step in {"put", "both"} else {}
        one.write(Batch(put=put, delete=[key] if step in {"delete", "both"} else [], wipe=step == "wipe"))
        if put:
            assert one.version(key) > seen[key]
            seen[key] = one.version(key)
        else:
            assert one.version(key) == ABSENT
