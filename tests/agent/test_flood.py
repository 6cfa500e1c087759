"""An agent that is no user of its own can write whatever it likes to where Claude Code talks to the service."""

from typing import Any

import pytest

from overnight.agent.conversation import MOST_BYTES

pytestmark = pytest.mark.e2e

FLOOD = (
    "import json, os; "
    'line = json.dumps({"type": "system", "subtype": "flood", "pad": "x" * 60_000}).encode() + b"\\n"; '
    'file = open(f"/proc/{os.getppid()}/fd/1", "wb", buffering=0); '
    "[file.write(line) for _ in range(%d)]"
)


async def test_a_flood_of_messages_does_not_fill_the_service(stage: Any) -> None:
    sent = MOST_BYTES // 60_000 + 200
    async with stage(uid_base=0) as it:
        outcome = await it.run(f"x\nrehearsal: bash exec python3 -c '{FLOOD % sent}'\nrehearsal: answer ok")
    assert outcome.result == "ok", "the run itself goes on"
    assert sum(len(fields.get("pad", "")) for fields in it.of("agent.system")) <= MOST_BYTES
    (cut,) = it.of("agent.events_cut")
    assert 0 < cut["count"] <= sent + 20
    assert it.of("agent.result"), "how it ended is told all the same"
