"""What is done with what Claude Code says, by a client that says what it is told to."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from claude_agent_sdk import AssistantMessage, ResultMessage, TextBlock

from overnight.agent.conversation import AT_ONCE, Conversation
from overnight.agent.outcome import Record


class Client:
    def __init__(self, *messages: Any) -> None:
        self._messages = messages

    async def connect(self) -> None: ...

    async def query(self, prompt: str) -> None: ...

    async def receive_messages(self) -> AsyncIterator[Any]:
        for message in self._messages:
            yield message


def result(**fields: Any) -> ResultMessage:
    given: dict[str, Any] = {
        "subtype": "success",
        "duration_ms": 1,
        "duration_api_ms": 1,
        "is_error": False,
        "num_turns": 1,
        "session_id": "s",
    }
    return ResultMessage(**(given | fields))


async def held(*messages: Any, emit: Any = lambda *_: None) -> Record:
    record = Record()
    client: Any = Client(*messages)
    await Conversation(client, "p", emit, record).hold()
    return record


async def test_others_have_their_turn_while_a_message_of_many_parts_is_dealt_with() -> None:
    turns = 0

    async def live() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    seen: list[int] = []

    def emit(kind: str, _: Mapping[str, Any]) -> None:
        if kind == "agent.text":
            seen.append(turns)

    living = asyncio.create_task(live())
    many = AssistantMessage(content=[TextBlock(text="")] * (10 * AT_ONCE), model="m")
    await held(many, result(), emit=emit)
    living.cancel()
    assert len(seen) == 10 * AT_ONCE
    assert seen[-1] - seen[0] >= 8


async def test_a_result_that_claude_code_would_not_give_ends_the_run_as_broken() -> None:
    told: list[str] = []
    record = await held(result(total_cost_usd=float("nan")), emit=lambda kind, _: told.append(kind))
    assert (record.result, told) == (None, [])
    assert record.broken is not None
