"""Wrangler, Cloudflare's own tool, as `edge/package.json` pins it: it uploads the Worker and sets its secrets."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIG = "wrangler.jsonc"
DEPLOYED = "wrangler.deployed.jsonc"
"""The configuration with the id of the KV namespace in it. Beside the other, because paths in it start there."""
NAMESPACE_ID = "set-by-deploy"
LAST_LINES = 15


class WranglerFailed(Exception):
    """The message holds the last lines that it said."""


class Wrangler:
    """`edge` is the directory with its configuration. The token goes by the environment of the child, never by an
    argument, which everybody on the machine can read. Every method raises WranglerFailed and OSError."""

    def __init__(self, edge: Path, *, api_url: str, token: str, account_id: str) -> None:
        self._edge = edge
        self._given = {
            "CLOUDFLARE_API_BASE_URL": api_url,
            "CLOUDFLARE_API_TOKEN": token,
            "CLOUDFLARE_ACCOUNT_ID": account_id,
            "WRANGLER_SEND_METRICS": "false",
            "NO_COLOR": "1",
            "CI": "1",
        }

    async def prepare(self) -> None:
        """Fetch wrangler and the Worker's packages as they are pinned, and put overnight beside them. What is up to
        date stays. It has the environment of this process, which holds no secret any more, for npm's and pip's sake."""
        await _run([sys.executable, str(self._edge / "prepare.py")], cwd=self._edge, environment=None)
        if not self._script.exists():
            raise WranglerFailed("Wrangler is missing: install node 22 or later with npm.")

    async def deploy(self, namespace_id: str) -> None:
        configuration = (self._edge / CONFIG).read_text()
        (self._edge / DEPLOYED).write_text(
            configuration.replace(f'"{NAMESPACE_ID}"', json.dumps(namespace_id))
        )
        await self._call("deploy")

    async def set_secrets(self, secrets: Mapping[str, str]) -> None:
        """Others that the Worker has stay."""
        await self._call("secret", "bulk", given=json.dumps(secrets).encode())

    async def _call(self, *words: str, given: bytes = b"") -> None:
        """`--env ""` is the configuration itself: the other one in it is for the offline edge."""
        node = self._node()
        with tempfile.TemporaryDirectory(prefix="overnight-wrangler-") as home:
            await _run(
                [node, str(self._script), *words, "--env", "", "--config", str(self._edge / DEPLOYED)],
                cwd=self._edge,
                environment={
                    **self._given,
                    "PATH": f"{Path(node).parent}{os.pathsep}{os.defpath}",
                    "HOME": home,  # a login of somebody's is not taken for the token
                },
                given=given,
            )

    @property
    def _script(self) -> Path:
        return self._edge / "node_modules" / "wrangler" / "bin" / "wrangler.js"

    def _node(self) -> str:
        """The node that npm brought along, else the machine's."""
        own = next(self._edge.glob("node_modules/node-*/bin/node"), None)
        found = str(own) if own is not None else shutil.which("node")
        if found is None:
            raise WranglerFailed("Wrangler needs node 22 or later: install it.")
        return found


async def _run(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None, given: bytes = b""
) -> None:
    """Its children (npm, pip) end with it: one that is left would go on writing beside the next deployment's."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate(given)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        lines = [line.rstrip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        last = "\n".join(f"  {line}" for line in lines[-LAST_LINES:])
        raise WranglerFailed(f"`{Path(command[1]).name}` ended with status {process.returncode}:\n{last}")
