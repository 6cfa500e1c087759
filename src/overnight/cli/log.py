"""The log of a service or a worker: for what the operator must see. Events are the story of a job.

Nothing of a prompt or a result is logged, only ids; and every record passes the redactor, with its traceback.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from overnight.domain.redaction import Redactor

LogForm = Literal["text", "json"]


def log_to_stderr(form: LogForm, redactor: Redactor) -> None:
    """Replaces the handlers of the process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_TEXT))
    handler.addFilter(WithoutSecrets(redactor))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class WithoutSecrets(logging.Filter):
    """Blanks a record in place: a secret may stand in its message, its arguments or the error it tells of."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor
        self._tracebacks = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redactor.text(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = self._tracebacks.formatException(record.exc_info)
        record.exc_info = None
        record.exc_text = self._redactor.data(record.exc_text)
        record.stack_info = self._redactor.data(record.stack_info)
        return True


class JsonLines(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `logger`, `message`, and `error` with the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        told = [text for text in (record.exc_text, record.stack_info) if text]
        return json.dumps(line | ({"error": "\n".join(told)} if told else {}))
