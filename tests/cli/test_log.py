"""The log of a service: no secret in a message, an argument or a traceback, as text or as JSON lines."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from overnight.cli.log import LogForm, log_to_stderr
from overnight.domain.redaction import Redactor

KEY = "sk-test-canary-4b1d9f02c7e8"
Write = Callable[[LogForm], io.StringIO]


@pytest.fixture
def written() -> Iterator[Write]:
    """What a log of this form holds after everything that could put the key there."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def write(form: LogForm) -> io.StringIO:
        log_to_stderr(form, Redactor({"api_key": KEY}))
        buffer = io.StringIO()
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(buffer)
        log = logging.getLogger("overnight.somewhere")
        log.warning("the key is %s", KEY)
        try:
            int(KEY)
        except ValueError:
            log.exception("request %s failed", "req_1", stack_info=True)
        return buffer

    yield write
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_logged(form: LogForm, written: Write) -> None:
    told = written(form).getvalue()
    assert KEY not in told
    assert told.count("[redacted:api_key]") == 2
    assert "ValueError" in told


def test_json_lines_are_objects_with_the_traceback_in_a_field(written: Write) -> None:
    first, second = (json.loads(line) for line in written("json").getvalue().splitlines())
    assert (first["level"], first["logger"]) == ("warning", "overnight.somewhere")
    assert first["message"] == "the key is [redacted:api_key]"
    assert "error" not in first
    assert "ValueError: " in second["error"]
    assert "[redacted:api_key]" in second["error"]
