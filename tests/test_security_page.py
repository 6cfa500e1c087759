"""docs/explain/security.md names tests that there are, and settings that there are."""

import re
from pathlib import Path

from overnight.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "explain" / "security.md"


def test_every_test_that_proves_a_promise_is_there() -> None:
    named = re.findall(r"\[(test_\w+)\]\((\S+)\)", PAGE.read_text())
    assert len(named) > 10
    for name, link in named:
        assert (PAGE.parent / link).is_file(), link
        assert Path(link).stem == name


def test_every_promise_is_proved() -> None:
    for name in (path.name for path in (PAGE.parent.parent.parent / "tests" / "promises").glob("test_*.py")):
        assert name in PAGE.read_text(), f"{name} proves something: say what"


def test_every_setting_that_is_named_is_one() -> None:
    for name in re.findall(r"`OVERNIGHT_([A-Z_]+)", PAGE.read_text()):
        assert name.lower() in Settings.model_fields, name
