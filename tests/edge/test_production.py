"""The configuration that would be deployed, as far as wrangler checks it offline."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.system import SystemClock
from overnight.settings import Settings, SettingsError
from overnight.wiring.cloudflare import edge_parts

EDGE = Path(__file__).parents[2] / "edge"
MAX_UPLOAD_KIB = 3 * 1024
"""Compressed; what a free plan takes."""


@pytest.mark.usefixtures("edge_settings")  # it sets up what wrangler needs
def test_wrangler_would_deploy_it(tmp_path: Path) -> None:
    own = next(EDGE.glob("node_modules/node-*/bin/node"), None)
    node = own or shutil.which("node")
    assert node is not None
    wrangler = EDGE / "node_modules" / "wrangler" / "bin" / "wrangler.js"
    told = subprocess.run(
        [node, wrangler, "deploy", "--dry-run", "--outdir", tmp_path],
        cwd=EDGE,
        env={
            "PATH": f"{Path(node).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "WRANGLER_SEND_METRICS": "false",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    for binding in ("env.LEDGER", "env.STATUS", "env.QUEUE (claude-code-queue)"):
        assert binding in told.stdout
    size = re.search(r"gzip: ([0-9.]+) KiB", told.stdout)
    assert size is not None
    assert float(size[1]) < MAX_UPLOAD_KIB


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("ledger_token", "OVERNIGHT_LEDGER_TOKEN"),
        ("CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_ACCOUNT_ID"),
        ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_TOKEN"),
        ("cloudflare_queue_id", "OVERNIGHT_CLOUDFLARE_QUEUE_ID"),
    ],
)
async def test_a_worker_says_which_setting_it_misses(missing: str, named: str) -> None:
    given: Mapping[str, str] = {
        "edge_url": "http://127.0.0.1:1",
        "ledger_token": "t",
        "CLOUDFLARE_ACCOUNT_ID": "a",
        "CLOUDFLARE_API_TOKEN": "t",
        "cloudflare_queue_id": "q",
    }
    settings = Settings.model_validate({name: value for name, value in given.items() if name != missing})
    with pytest.raises(SettingsError, match=named):
        async with edge_parts(settings, MemoryWakeups(), SystemClock()):
            pass
