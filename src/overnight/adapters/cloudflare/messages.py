"""The message of the queue, in the plan's schema: `{job_id, prompt, session_id, callback_url, timestamp}` and options.

It is a bell: the ledger is the truth, and a worker reads the job there. So what does not fit may be left out.
"""

from typing import Any

import msgspec
from msgspec import Struct

from overnight.domain.ids import InvalidId, parse_uuid
from overnight.domain.job import Job, JobRequest

MAX_BYTES = 120_000
"""Cloudflare takes 128 KB, of which about 100 bytes are its own (facts: cloudflare 4); the rest is room for base64
and escapes of a client that counts otherwise."""
MAX_RETRIES = 20
"""Of the queue: after so many pulls and one more a message is a dead letter. Waiting jobs use none up, so this many are
trouble."""
OPTIONS = (
    "model",
    "max_turns",
    "max_budget_usd",
    "timeout_seconds",
    "append_system_prompt",
    "allowed_tools",
    "disallowed_tools",
    "output_schema",
    "metadata",
)


class Message(Struct, frozen=True, kw_only=True):
    """`timestamp` is when it is to ring, in milliseconds. What is null may stand in the ledger all the same."""

    job_id: str
    prompt: str | None
    session_id: str | None
    callback_url: str | None
    timestamp: int
    options: dict[str, Any] | None = None

    @property
    def rings_at(self) -> float:
        """In seconds; never before the time that it was made for, of which it has whole milliseconds only."""
        return (self.timestamp + 1) / 1000


class InvalidMessage(ValueError):
    """The text is no message of ours. What it says is not repeated."""


_decoder = msgspec.json.Decoder(Message)


def message_of(job: Job, request: JobRequest) -> Message:
    """The whole message of a new job, or as much of it as fits."""
    whole = Message(
        job_id=job.job_id,
        prompt=request.prompt,
        session_id=job.session_id,
        callback_url=request.callback_url,
        timestamp=int(job.created_at * 1000),
        options=_options(request),
    )
    if size(whole) <= MAX_BYTES:
        return whole
    return msgspec.structs.replace(whole, prompt=None, options=None)


def bell(job_id: str, *, timestamp: int) -> Message:
    """A message that only rings: for a job that was announced before."""
    return Message(job_id=job_id, prompt=None, session_id=None, callback_url=None, timestamp=timestamp)


def size(message: Message) -> int:
    return len(msgspec.json.encode(message))


def parse_message(body: bytes) -> Message:
    """Raises InvalidMessage."""
    try:
        message = _decoder.decode(body)
        parse_uuid(message.job_id)
    except (msgspec.DecodeError, InvalidId, UnicodeDecodeError):
        raise InvalidMessage("that is not a message of overnight") from None
    return message


def _options(request: JobRequest) -> dict[str, Any]:
    """Those that were given."""
    options = {name: getattr(request, name) for name in OPTIONS}
    return {name: value for name, value in options.items() if value not in (None, (), {})}
