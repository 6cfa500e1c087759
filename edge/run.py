"""Starts the edge offline, in real workerd, and writes the settings of a worker for it.

    python edge/run.py --port 8787 --settings edge/.dev.env

It prints `edge: URL` once it answers, and stops at SIGTERM or Ctrl-C. KEY is the API key that opens it; without one
it makes one. Durable Objects and KV live in --state; the queue, with its pull stand-in, is in memory and is lost at
a stop.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

import prepare
from overnight.adapters.cloudflare.messages import MAX_RETRIES
from overnight.domain.keys import RANDOM_BYTES, ApiKey, KeyLimits, Scope, digest, make_key, parse_key
from overnight.domain.signature import new_secret
from overnight.rehearsal.account import StandInAccount, account_app
from overnight.rehearsal.pull_queue import pull_queue_app
from overnight.serving import listen, serving, url_of

START_SECONDS = 120.0
STOP_SECONDS = 10.0
QUEUE, DEAD_LETTERS, TICKS = "claude-code-queue", "claude-code-dlq", "forwarder-ticks"


@dataclass(frozen=True, slots=True)
class Secrets:
    """`keys` is what the edge knows of the API keys; `api_key` is one of them, whole."""

    api_key: str
    keys: str
    ledger_token: str
    api_token: str


def main() -> int:
    options = _options()
    prepare.prepare()
    with tempfile.TemporaryDirectory(prefix="overnight-edge-") as scratch:
        state = (options.state or Path(scratch) / "state").resolve()
        state.mkdir(parents=True, exist_ok=True)
        made, url = _secrets(os.environ.get("KEY")), f"http://127.0.0.1:{options.port or _free_port()}"
        pull_url = _start_pull(made.api_token, options.retries)
        forwarder = _forwarder(Path(scratch), pull_url, made.api_token)
        wrangler = _start(url, state, Path(scratch), made, forwarder, options)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            _wait(url, wrangler)
            _write_settings(options.settings, url, pull_url, made)
            print(f"edge: {url}", flush=True)
            return wrangler.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(wrangler)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8787, help="0: any free one")
    parser.add_argument("--state", type=Path, help="where it keeps its data; a new directory if left out")
    parser.add_argument("--settings", type=Path, required=True, help="the file for a worker's settings")
    parser.add_argument("--tend", default="20", help="seconds after which a silent worker has lost its job")
    parser.add_argument(
        "--retries", type=int, default=MAX_RETRIES, help="of a message, before it is a dead letter"
    )
    parser.add_argument("--log", type=Path, default=os.devnull, help="what wrangler tells")
    return parser.parse_args()


def _secrets(key: str | None) -> Secrets:
    text, made = make_key(
        name="edge",
        owner=None,
        scopes=frozenset({Scope.ADMIN}),
        limits=KeyLimits(),
        webhook_secret=new_secret(os.urandom(32)),
        expires_at=None,
        random=os.urandom(RANDOM_BYTES),
        now=time.time(),
    )
    if key is not None:
        text, made = key, _known(key, made)
    keys = msgspec.json.encode([made]).decode()
    return Secrets(text, keys, secrets.token_urlsafe(32), secrets.token_urlsafe(32))


def _known(key: str, like: ApiKey) -> ApiKey:
    """Raises InvalidKey."""
    given = parse_key(key)
    return replace(like, key_id=given.key_id, secret_sha256=digest(given.secret), owner=given.key_id)


def _start_pull(token: str, max_retries: int) -> str:
    """The stand-in of the account with its pull interface, in a thread that ends with this process. Returns its
    address."""
    listener = listen("127.0.0.1", 0)
    app = account_app(_account(token), pull_queue_app(token, time.time, max_retries=max_retries))

    async def serve() -> None:
        async with serving(app, listener, grace_seconds=1.0):
            await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    return url_of(listener)


def _account(token: str) -> StandInAccount:
    """As `overnight doctor` wants to see it. It shows no KV: that is in workerd."""
    consumer = {"consumer_id": "pull", "type": "http_pull", "dead_letter_queue": DEAD_LETTERS}
    return StandInAccount(token=token, queues={QUEUE: QUEUE}, consumers={QUEUE: [consumer]})


def _forwarder(scratch: Path, pull_url: str, token: str) -> Path:
    """The configuration of the Worker that hands the queue's messages to the stand-in."""
    own = {"max_batch_size": 1, "max_batch_timeout": 0, "max_retries": 100}
    offline = {
        "vars": {"BRIDGE_URL": f"{pull_url}/bridge/{QUEUE}", "BRIDGE_TOKEN": token},
        "queues": {
            "consumers": [{"queue": QUEUE, **own}, {"queue": TICKS, **own}],
            "producers": [
                {"binding": "DEAD_LETTERS", "queue": DEAD_LETTERS},
                {"binding": "TICKS", "queue": TICKS},
            ],
        },
    }
    path = scratch / "forwarder.json"
    path.touch(mode=0o600)
    config = {
        "name": "overnight-forwarder",
        "main": str(prepare.EDGE / "forwarder.js"),
        "compatibility_date": "2026-11-01",
        "env": {"offline": offline},
    }
    path.write_text(json.dumps(config))
    return path


def _start(
    url: str, state: Path, scratch: Path, made: Secrets, forwarder: Path, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    """Secrets go by a file: an argument can be read by everybody on the machine."""
    secrets_file = scratch / "secrets.env"
    secrets_file.touch(mode=0o600)
    secrets_file.write_text(
        _dotenv(
            {
                "OVERNIGHT_KEYS": made.keys,
                "OVERNIGHT_LEDGER_TOKEN": made.ledger_token,
                "OVERNIGHT_TEND_SECONDS": options.tend,
            }
        )
    )
    wrangler = prepare.EDGE / "node_modules" / "wrangler" / "bin" / "wrangler.js"
    command = [prepare.node(), str(wrangler), "dev", "--env", "offline", "--ip", "127.0.0.1"]
    command += ["-c", str(prepare.EDGE / "wrangler.jsonc"), "-c", str(forwarder)]
    command += ["--port", url.rpartition(":")[2], "--inspector-port", str(_free_port())]
    command += ["--persist-to", str(state), "--env-file", str(secrets_file)]
    command += ["--show-interactive-dev-session=false"]
    with Path(options.log).open("wb") as told:
        return subprocess.Popen(
            command,
            cwd=prepare.EDGE,
            env=_environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
        )


def _environment(scratch: Path) -> Mapping[str, str]:
    """Its own HOME: wrangler's registry of running Workers and its caches are nobody else's."""
    return {
        "PATH": f"{Path(prepare.node()).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(scratch),
        "CI": "1",
        "MINIFLARE_WORKERD_PATH": str(prepare.CACHE / "workerd"),
        "WRANGLER_SEND_METRICS": "false",
    }


def _dotenv(values: Mapping[str, str]) -> str:
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def _wait(url: str, wrangler: subprocess.Popen[bytes]) -> None:
    """Until it answers. Python starts with the first request, so that one may take long."""
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and wrangler.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=START_SECONDS) as answer:
                json.load(answer)
                return
        except (urllib.error.URLError, OSError, ValueError):
            time.sleep(0.2)
    raise SystemExit("the edge did not start: run it again with --log FILE, and look there")


def _write_settings(path: Path, url: str, pull_url: str, made: Secrets) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.touch(mode=0o600)
    fresh.write_text(
        "# The settings of a worker for this edge, and an API key. Written by edge/run.py.\n"
        + _dotenv(
            {
                "OVERNIGHT_EDGE_URL": url,
                "OVERNIGHT_LEDGER_TOKEN": made.ledger_token,
                "OVERNIGHT_KEYS": made.keys,
                "CLOUDFLARE_API_TOKEN": made.api_token,
                "CLOUDFLARE_ACCOUNT_ID": "offline",
                "OVERNIGHT_CLOUDFLARE_API_URL": pull_url,
                "OVERNIGHT_CLOUDFLARE_QUEUE_ID": QUEUE,
                "OVERNIGHT_URL": url,
                "OVERNIGHT_API_KEY": made.api_key,
            }
        )
    )
    fresh.replace(path)


def _stop(wrangler: subprocess.Popen[bytes]) -> None:
    wrangler.terminate()
    try:
        wrangler.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        wrangler.kill()


def _free_port() -> int:
    """Below those that the kernel gives to whoever asks for any (32768 and up): wrangler takes seconds until it
    listens, and nobody else is to get it meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


if __name__ == "__main__":
    raise SystemExit(main())
