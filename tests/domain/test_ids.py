import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.cursor import parse_session_cursor, session_cursor
from overnight.domain.ids import InvalidId, parse_delivery_id, parse_uuid, uuid4, uuid7
from overnight.domain.job import Session

times = st.floats(min_value=0, max_value=2**47 / 1000)


@given(random=st.binary(min_size=16, max_size=16))
def test_a_version_4_uuid_is_an_id(random: bytes) -> None:
    made = uuid4(random)
    assert parse_uuid(made) == made
    assert (made[14], made[19] in "89ab") == ("4", True)


@given(now=times, random=st.binary(min_size=10, max_size=10))
def test_a_version_7_uuid_is_an_id_that_holds_its_time(now: float, random: bytes) -> None:
    made = uuid7(now, random)
    assert parse_uuid(made) == made
    assert (made[14], made[19] in "89ab") == ("7", True)
    assert int(made[:13].replace("-", ""), 16) == int(now * 1000)


@given(earlier=times, later=times, random=st.binary(min_size=20, max_size=20))
def test_later_ids_sort_after_earlier_ones(earlier: float, later: float, random: bytes) -> None:
    if int(earlier * 1000) < int(later * 1000):
        assert uuid7(earlier, random[:10]) < uuid7(later, random[10:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0190a5b6-7c8d-7e9f-8a0b-1c2d3e4f506",
        "0190a5b6-7c8d-7e9f-8a0b-1c2d3e4f5061\n",
        "0190A5B6-7C8D-7E9F-8A0B-1C2D3E4F5061",
        "{0190a5b6-7c8d-7e9f-8a0b-1c2d3e4f5061}",
        "urn:uuid:0190a5b6-7c8d-7e9f-8a0b-1c2d3e4f5061",
        "0190a5b67c8d7e9f8a0b1c2d3e4f5061",
        "0190a5b6-7c8d-7e9f-8a0b-1c2d3e4f506１",  # noqa: RUF001 - a full-width digit is the point
        "../0190a5b6-7c8d-7e9f-8a0b-1c2d3e4f50",
    ],
)
def test_one_object_has_one_name(text: str) -> None:
    with pytest.raises(InvalidId) as refusal:
        parse_uuid(text)
    assert not text or text not in str(refusal.value)


def test_a_delivery_id() -> None:
    assert parse_delivery_id("msg_" + "0f" * 16) == "msg_" + "0f" * 16
    for text in ("msg_", "msg_" + "0F" * 16, "0f" * 16, "msg_" + "0f" * 16 + "\n"):
        with pytest.raises(InvalidId):
            parse_delivery_id(text)


@given(
    created_at=st.floats(allow_nan=False, allow_infinity=False), random=st.binary(min_size=16, max_size=16)
)
def test_a_cursor_names_the_place_exactly(created_at: float, random: bytes) -> None:
    session = Session(session_id=uuid4(random), created_at=created_at, updated_at=0.0)
    assert parse_session_cursor(session_cursor(session)) == (created_at, session.session_id)


@given(text=st.text(max_size=60))
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_session_cursor(text)
