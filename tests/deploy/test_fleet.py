"""How many Cloudflare Containers are started for a backlog: the Worker's own code, in node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "deploy" / "cloudflare-container" / "src" / "fleet.js"
SCRIPT = """
import { settingsFor, startFor } from %s;
const given = JSON.parse(await new Response(process.stdin).text());
const up = new Set(given.up), asked = [];
await startFor(given.backlog, given.env, async (name) => {
  asked.push(name);
  if (given.broken.includes(name)) throw new Error("no room");
  return !up.has(name) && up.add(name) !== undefined;
});
console.log(JSON.stringify({ asked, up: [...up].sort(), settings: settingsFor(given.env) }));
"""


def fleet(backlog: int, *, up: int = 0, broken: tuple[str, ...] = (), **env: str) -> Any:
    own = next((ROOT / "edge").glob("node_modules/node-*/bin/node"), None)
    node = str(own) if own else shutil.which("node")
    if node is None:
        pytest.skip("the edge needs node and npm")
    given = {
        "backlog": backlog,
        "up": [f"worker-{number}" for number in range(up)],
        "broken": broken,
        "env": {"OVERNIGHT_CONCURRENCY": "4", "MAX_CONTAINERS": "5", **env},
    }
    done = subprocess.run(
        [node, "--input-type=module", "--eval", SCRIPT % json.dumps(FLEET.as_uri())],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("backlog", "up", "then"), [(0, 0, 0), (1, 0, 1), (4, 0, 1), (5, 0, 2), (99, 0, 5), (0, 3, 3), (9, 5, 5)]
)
def test_a_backlog_starts_as_many_as_it_needs(backlog: int, up: int, then: int) -> None:
    assert len(fleet(backlog, up=up)["up"]) == then


def test_jobs_that_wait_behind_full_hands_get_a_container_of_their_own() -> None:
    assert fleet(1, up=1)["up"] == ["worker-0", "worker-1"]


def test_one_that_does_not_start_holds_up_no_other() -> None:
    assert fleet(8, broken=("worker-0",))["up"] == ["worker-1", "worker-2"]


def test_a_container_is_given_the_settings_of_a_worker_and_nothing_else() -> None:
    given = fleet(0, ANTHROPIC_API_KEY="k", OTHER="x")["settings"]
    assert given == {"OVERNIGHT_CONCURRENCY": "4", "ANTHROPIC_API_KEY": "k"}
