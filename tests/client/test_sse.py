from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from overnight.client.sse import Parser


def parse(raw: bytes) -> list[str]:
    return Parser().feed(raw)


def test_other_fields_are_passed_over() -> None:
    assert parse(b"retry: 2000\nid: 7\nevent: agent.text\ndata: {}\n\n") == ["{}"]


def test_several_data_lines_are_joined() -> None:
    assert parse(b"data: a\ndata:b\ndata\n\n") == ["a\nb\n"]


def test_comments_and_events_without_data_are_nothing() -> None:
    assert parse(b": heartbeat\n\nevent: x\n\n") == []


def test_line_separators_of_unicode_do_not_tear_an_event() -> None:
    assert parse("data: a\u2028b\x85c\x1dd\n\n".encode())[0] == "a\u2028b\x85c\x1dd"


def test_an_unfinished_event_waits_for_its_end() -> None:
    parser = Parser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == ["a"]


FIELDS = st.sampled_from(
    [b"id: 1", b"event: e", b"data: x", b"data:", b": c", b"retry: 5", "data: ✓".encode()]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.one_of(FIELDS, st.just(b""), st.binary(max_size=6).map(lambda b: b.translate(None, b"\r\n")))


@given(st.lists(st.tuples(LINES, ENDS), max_size=20), st.lists(st.integers(0, 200), max_size=8))
def test_how_the_bytes_are_cut_makes_no_difference(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    raw = b"".join(line + end for line, end in lines) + b"\n\n"
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    parser = Parser()
    pieces = [data for start, end in pairwise(edges) for data in parser.feed(raw[start:end])]
    assert pieces == parse(raw)
