import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.models import FAMILIES, is_allowed

names = st.from_regex(r"claude-[a-z]{1,8}-[0-9]{1,2}(-[0-9]{1,2})?", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-sonnet-5-5", "claude-sonnet-5-5"),
        ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        ("claude-sonnet-5-5[1m]", "claude-sonnet-5-5"),
        ("sonnet", "claude-sonnet-5-5"),
        ("sonnet[1m]", "claude-sonnet-5-5"),
        ("sonnet", "claude-3-5-sonnet-20241022"),
    ],
)
def test_a_name_stands_for_the_model_that_claude_code_asks_for(name: str, model: str) -> None:
    assert is_allowed(model, [name])
    assert is_allowed(model, ["claude-other-1", name])


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-opus-4", "claude-opus-4-8"),
        ("claude-opus-4", "claude-opus-4-8-20260101"),
        ("sonnet", "claude-opus-5-5"),
        ("sonnet", "sonnet-of-somebody"),
        ("sonnet", ""),
        ("claude", "claude-opus-5-5"),
        ("", "claude-opus-5-5"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5-2026010"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
    ],
)
def test_a_name_stands_for_no_other_model(name: str, model: str) -> None:
    assert not is_allowed(model, [name])


@given(names, names)
def test_a_whole_name_allows_itself_alone(name: str, model: str) -> None:
    assert is_allowed(model, [name]) is (name == model)


@given(st.text(max_size=40))
def test_no_text_gets_through_an_empty_list(model: str) -> None:
    assert not is_allowed(model, [])
    assert not is_allowed(model, FAMILIES) or model.startswith("claude-")
