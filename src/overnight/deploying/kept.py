"""What stays on the machine that deploys, in its data directory: the ledger's token, and the settings of a worker."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from overnight.archive.durable import whole_file
from overnight.settings import Settings

TOKEN_FILE, WORKER_FILE = "ledger-token", "worker.env"


class TwoTokens(Exception):
    """The message says where they are, and not what they are."""


def known_ledger_token(settings: Settings) -> str | None:
    """The setting, or the one that was made here. Cloudflare shows no secret again.

    Raises OSError, and TwoTokens if the two differ: whichever was taken, the next deployment might take the other one
    and shut out every worker.
    """
    made = _made_token(settings.data / TOKEN_FILE)
    given = settings.ledger_token.get_secret_value() if settings.ledger_token is not None else None
    if made is not None and given not in {None, made}:
        raise TwoTokens(
            f"OVERNIGHT_LEDGER_TOKEN is another one than that in {settings.data / TOKEN_FILE}. Unset it if it is of "
            "another edge; delete that file first if it is to take the place of the old one."
        )
    return given or made


def _made_token(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
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
    """Whole and for good or not at all, for its owner only. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with whole_file(path) as file:  # which only its owner may read
        file.write(text.encode())


_HEAD = """\
# The settings of a worker for this edge. Written by `overnight cloudflare deploy`, and anew each time.
"""
_REST = """\
# A worker also needs these, which nobody but you can give:
# CLOUDFLARE_API_TOKEN=     a token of its own, with the permissions Queues Read and Queues Write, and no others
# ANTHROPIC_API_KEY=
# SUPABASE_URL= and SUPABASE_SECRET_KEY=, or OVERNIGHT_S3_BUCKET=: archives that all workers reach
"""
