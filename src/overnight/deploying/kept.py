"""What stays on the machine that deploys, in its data directory: the ledger's token, and the settings of a worker."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from overnight.settings import Settings

TOKEN_FILE, WORKER_FILE = "ledger-token", "worker.env"


def known_ledger_token(settings: Settings) -> str | None:
    """The setting, or the one that was made here. Cloudflare shows no secret again. Raises OSError."""
    if settings.ledger_token is not None:
        return settings.ledger_token.get_secret_value()
    try:
        return (settings.data / TOKEN_FILE).read_text().strip() or None
    except FileNotFoundError:
        return None


def make_ledger_token(settings: Settings) -> str:
    """On disk before anybody is told of it. Raises OSError."""
    token = secrets.token_urlsafe(32)
    write_secret(settings.data / TOKEN_FILE, f"{token}\n")
    return token


def worker_file(settings: Settings) -> Path:
    return settings.data / WORKER_FILE


def worker_text(values: Mapping[str, str]) -> str:
    """The settings as a file for a shell, systemd and compose. A single quote can only stand in JSON, which has
    another way to write it."""
    lines = [f"{name}='{value.replace(chr(39), chr(92) + 'u0027')}'\n" for name, value in values.items()]
    return _HEAD + "".join(lines) + _REST


def write_secret(path: Path, text: str) -> None:
    """Whole or not at all, for its owner only. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


_HEAD = """\
# The settings of a worker for this edge. Written by `overnight cloudflare deploy`, and anew each time.
"""
_REST = """\
# A worker also needs these, which nobody but you can give:
# CLOUDFLARE_API_TOKEN=     a token of its own, with the permissions Queues Read and Queues Write, and no others
# ANTHROPIC_API_KEY=
# SUPABASE_URL= and SUPABASE_SECRET_KEY=, or OVERNIGHT_S3_BUCKET=: archives that all workers reach
"""
