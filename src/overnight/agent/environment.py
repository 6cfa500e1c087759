"""The environment of a run, built from nothing: what is not named here does not reach the agent."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import claude_agent_sdk

from overnight.agent.processes import MARK

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

API_TIMEOUT_MS = 600_000
"""For one call without a first byte; the job's own timeout is the real limit."""

STREAM_IDLE_MS = 120_000
"""A stream that is silent for so long is cut and asked for again; the API sends pings far more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where the agent finds things. In a sandbox these are not the paths of the host.

    `given` is the read-only directory of what the service hands in.
    """

    files: Path
    home: Path
    config: Path
    temporary: Path
    given: Path


def environment(
    view: View,
    *,
    gateway: str,
    proxy: str,
    token: str,
    mark: str,
    project: str,
    api_retries: int,
    as_root: bool,
) -> dict[str, str]:
    """`token` opens nothing but the gateway, and only while the run lasts. `project` names the folder of the
    conversation, which would otherwise follow the path of the working directory."""
    names = {
        MARK: mark,
        "PATH": ":".join((str(python_prefix() / "bin"), *SYSTEM_PATH)),
        "HOME": str(view.home),
        "LANG": "C.UTF-8",
        "TMPDIR": str(view.temporary),
        "ANTHROPIC_BASE_URL": gateway,
        "ANTHROPIC_API_KEY": token,
        "API_TIMEOUT_MS": str(API_TIMEOUT_MS),
        "CLAUDE_AGENT_SDK_VERSION": claude_agent_sdk.__version__,
        "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": str(STREAM_IDLE_MS),
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_CODE_MAX_RETRIES": str(api_retries),
        "CLAUDE_CODE_PROJECT_DIR_NAME": project,
        "CLAUDE_CODE_TMPDIR": str(view.temporary),
        "CLAUDE_CONFIG_DIR": str(view.config),
        "CLAUDE_ENABLE_BYTE_WATCHDOG": "1",
    }
    # Claude Code refuses bypassPermissions to root unless it is told that the machine is expendable.
    return names | proxy_environment(proxy) | ({"IS_SANDBOX": "1"} if as_root else {})


def proxy_environment(proxy_url: str) -> dict[str, str]:
    """All of the network goes through the proxy but the gateway. Tools differ in which case they read."""
    names = {"HTTP_PROXY": proxy_url, "HTTPS_PROXY": proxy_url, "NO_PROXY": "127.0.0.1,localhost"}
    return names | {name.lower(): value for name, value in names.items()}


def python_prefix() -> Path:
    """Of the Python under our virtual environment: the agent has a `python3` wherever the service has one."""
    return Path(os.path.realpath(sys.base_prefix))
