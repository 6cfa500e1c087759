"""docs/webhooks.md says what the code does: the fields of the body, the delays, the headers' limits."""

import json
import re
from pathlib import Path

from overnight.domain.delivery import DELAYS, JITTER, MAX_RESULT_BYTES, MAX_RETRY_AFTER, body_of
from overnight.domain.job import Job, Status

PAGE = (Path(__file__).parent.parent.parent / "docs" / "webhooks.md").read_text()
SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


def row(title: str) -> list[str]:
    [line] = re.findall(rf"^\| {re.escape(title)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_the_example_has_the_fields_of_a_real_body_in_its_order() -> None:
    [example] = re.findall(r"```json\n(\{.*?\n\})\n```", PAGE, re.DOTALL)
    job = Job(job_id="j", session_id="s", status=Status.COMPLETED, created_at=1.0, available_at=1.0)
    shown, real = json.loads(example), json.loads(body_of(job))
    assert list(shown) == list(real)
    assert shown["type"] == real["type"]


def test_the_table_has_the_real_delays() -> None:
    told = [re.fullmatch(r"([\d.]+) ?(\w*)", cell) for cell in row("after the one before")]
    assert [float(one[1]) * SECONDS[one[2]] for one in told if one] == list(DELAYS)
    assert row("Try") == [str(number) for number in range(1, len(DELAYS) + 1)]


def test_the_numbers_in_the_text_are_the_real_ones() -> None:
    assert f"±{JITTER * 100:.0f} %" in PAGE
    assert f"about {sum(DELAYS) / 3600:.0f} hours" in PAGE
    assert f"longer, up to {MAX_RETRY_AFTER / 3600:.0f} hours" in PAGE
    assert f"more than {MAX_RESULT_BYTES:,} bytes".replace(",", " ") in PAGE
