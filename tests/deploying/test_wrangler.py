"""The configurations of the Workers against wrangler's own schema, and that what is uploaded is what was tried dry."""

import asyncio
import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from overnight.deploying.wrangler import Wrangler

ROOT = Path(__file__).parents[2]
EDGE = ROOT / "edge"


def configuration(path: Path) -> Any:
    """JSON with comments on lines of their own, which is all that ours have."""
    return json.loads(re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE))


@pytest.fixture(scope="module")
def faults() -> Any:
    """`faults(configuration)`: what the schema of the pinned wrangler does not allow in it."""
    if which("npm") is None:
        pytest.skip("the edge needs node and npm")
    subprocess.run([sys.executable, EDGE / "prepare.py"], check=True, timeout=500)
    schema = json.loads((EDGE / "node_modules" / "wrangler" / "config-schema.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    return lambda config: [(error.json_path, error.message) for error in validator.iter_errors(config)]


PREPARE = """
import os, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True, file=open("child", "w"))
os.rename("child", "pid")
child.wait()
"""


async def test_what_a_cancelled_deployment_has_started_ends_with_it(tmp_path: Path) -> None:
    """Else an npm that is left would write beside that of the next try."""
    (tmp_path / "prepare.py").write_text(PREPARE)
    wrangler = Wrangler(tmp_path, api_url="http://127.0.0.1:1", token="t", account_id="a")
    preparing = asyncio.create_task(wrangler.prepare())
    async with asyncio.timeout(30):
        while not (tmp_path / "pid").exists():  # noqa: ASYNC110 - no event crosses a process boundary
            await asyncio.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    preparing.cancel()
    try:
        await asyncio.wait({preparing}, timeout=10)
        assert preparing.done()
        async with asyncio.timeout(10):
            while is_alive(child):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def is_alive(process: int) -> bool:
    try:
        return "(sleep) Z" not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("path", ["edge/wrangler.jsonc", "deploy/cloudflare-container/wrangler.jsonc"])
def test_wrangler_knows_every_field(faults: Any, path: str) -> None:
    assert faults(configuration(ROOT / path)) == []


def test_the_schema_would_find_a_wrong_one(faults: Any) -> None:
    config = copy.deepcopy(configuration(EDGE / "wrangler.jsonc"))
    config["queues"]["producers"][0]["name"] = config["queues"]["producers"][0].pop("queue")
    assert any(path.startswith("$.queues.producers") for path, _ in faults(config))


def test_the_offline_edge_has_the_bindings_of_the_deployed_one() -> None:
    """An environment inherits none, so each is written twice."""
    config = configuration(EDGE / "wrangler.jsonc")
    offline = config["env"]["offline"]

    def bindings(place: Any) -> Any:
        queues = place["queues"]
        return (
            place["durable_objects"],
            [namespace["binding"] for namespace in place["kv_namespaces"]],
            queues["producers"],
            [consumer["queue"] for consumer in queues.get("consumers", [])],
        )

    assert bindings(config) == bindings(offline)
