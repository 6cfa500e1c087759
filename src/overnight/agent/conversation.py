"""What is said with one process of Claude Code."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from claude_agent_sdk import (
    ClaudeSDKClient,
    ClaudeSDKError,
    CLIConnectionError,
    CLIJSONDecodeError,
    ProcessError,
    ResultMessage,
)

from overnight.agent.messages import events_of
from overnight.agent.outcome import Record, growth

MOST_BYTES = 64 * 1024 * 1024
"""Of the events that the messages of one run make, as JSON; a long run makes a few millions. An agent that is the same
user as the service can write to where Claude Code does, without end."""

EACH_BYTES = 512
"""What an event takes besides, here and in the store: there could be millions that say nothing."""

AT_ONCE = 500
"""Events of one message, before all else has its turn: an agent can put millions into one."""

Emit = Callable[[str, Mapping[str, Any]], None]

_log = logging.getLogger(__name__)


class Conversation:
    """Noted in `record` and emitted as events."""

    def __init__(self, client: ClaudeSDKClient, prompt: str, emit: Emit, record: Record) -> None:
        self.client = client
        self._prompt = prompt
        self._emit = emit
        self._record = record
        self._connected = asyncio.Event()
        self._bytes_left = MOST_BYTES
        self._cut = 0

    @property
    def has_result(self) -> bool:
        return self._record.result is not None

    async def hold(self) -> None:
        """Until the result, or until it is clear that there will be no good one."""
        try:
            await self.client.connect()
            self._connected.set()
            await self.client.query(self._prompt)
        except Exception as error:  # noqa: BLE001 - the SDK raises bare Exceptions too ("Control request timeout")
            self._record.error = error
            return
        try:
            while await self._listen():
                pass
        except ClaudeSDKError as error:
            self._record.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, what the run came to and has cost is known
            _log.exception("a message of Claude Code could not be dealt with")
            self._record.broken = error
        if self._cut:
            self._emit("agent.events_cut", {"count": self._cut})

    async def _listen(self) -> bool:
        """True if a message could not be understood, and there may be more."""
        try:
            async for message in self.client.receive_messages():
                self._record.note(message)
                await self._tell(message)
                if isinstance(message, ResultMessage) or self._record.rejected:
                    return False
        except ClaudeSDKError as error:
            if isinstance(error, CLIConnectionError | CLIJSONDecodeError | ProcessError):
                raise
            self._emit("agent.message", {"kind": "unreadable"})
            return True
        return False

    async def _tell(self, message: Any) -> None:
        for number, (kind, fields) in enumerate(events_of(message), start=1):
            if isinstance(message, ResultMessage) or self._has_room(fields):
                self._emit(kind, fields | self._price(message))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _has_room(self, fields: Mapping[str, Any]) -> bool:
        if self._bytes_left >= 0:
            self._bytes_left -= EACH_BYTES + len(msgspec.json.encode(fields))
        self._cut += self._bytes_left < 0
        return self._bytes_left >= 0

    def _price(self, message: Any) -> dict[str, Any]:
        """What the run cost goes with its result, beside what the conversation has cost."""
        if not isinstance(message, ResultMessage):
            return {}
        return {"cost_usd": growth(message, self._record.counted)}

    async def interrupt(self, talking: "asyncio.Task[None]", seconds: float) -> None:
        """Ask it to stop, and wait for its last word: the result with the cost."""
        if not self._connected.is_set():
            return
        # A frozen CLI would not answer for a minute.
        asking = asyncio.create_task(self.client.interrupt())
        try:
            await asyncio.wait({talking}, timeout=seconds)
        finally:
            asking.cancel()
            await asyncio.wait({asking})
        if not asking.cancelled():
            asking.exception()
