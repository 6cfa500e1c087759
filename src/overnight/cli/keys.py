"""`overnight keys`: make, list and revoke API keys, directly in the data directory."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import typer
from msgspec import Struct

from overnight.cli.exits import Exit, Unable
from overnight.cli.show import as_json
from overnight.cli.text import columns, moment, visible
from overnight.domain import keys as rules
from overnight.domain.errors import KeyNotFound, RotationUnderWay
from overnight.domain.keys import ApiKey, InvalidKey, KeyLimits, Scope, make_key, parse_key_id
from overnight.domain.signature import new_secret
from overnight.ports import StorageError
from overnight.settings import Settings
from overnight.wiring import OpenedKeys, opened_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    name: str
    owner: str | None
    scopes: frozenset[Scope]
    limits: KeyLimits
    expires_in_days: float | None


class KeyView(Struct, kw_only=True, omit_defaults=True):
    """A key as it is shown; `key` and `webhook_secret` only when they are made."""

    key_id: str
    name: str
    owner: str
    scopes: Sequence[Scope]
    limits: KeyLimits
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    key: str | None = None
    webhook_secret: str | None = None


async def create(settings: Settings, order: Order, *, json: bool) -> Exit:
    async with _opened(settings) as opened:
        now = opened.clock.now()
        days = order.expires_in_days
        text, key = make_key(
            name=order.name,
            owner=order.owner,
            scopes=order.scopes,
            limits=order.limits,
            webhook_secret=new_secret(secrets.token_bytes(32)),
            expires_at=None if days is None else now + days * 86400,
            random=secrets.token_bytes(rules.RANDOM_BYTES),
            now=now,
        )
        if not await opened.store.create(key):
            raise Unable("the id that was drawn is taken, which is rare. Nothing was made: try again.")
    shown = _view(key, key=text, webhook_secret=key.webhook_secrets[0])
    typer.echo(as_json(shown) if json else "\n".join(_made(shown)))
    return Exit.OK


async def listing(settings: Settings, *, json: bool) -> Exit:
    async with _opened(settings) as opened:
        found, now = await opened.store.keys(), opened.clock.now()
    if json:
        typer.echo(as_json([_view(key) for key in found]))
    else:
        typer.echo("\n".join(_table(found, now)) if found else "no keys: the service needs none on loopback")
    return Exit.OK


async def revoke(settings: Settings, key_id: str) -> Exit:
    async with _opened(settings) as opened:
        now = opened.clock.now()
        key = await opened.store.change(parse_key_id(key_id), partial(rules.revoke, now=now))
    typer.echo(f"key {key.key_id} ({visible(key.name)}) is revoked; the jobs it sent go on")
    return Exit.OK


async def rotate(settings: Settings, key_id: str, *, done: bool, json: bool) -> Exit:
    async with _opened(settings) as opened:
        fresh = new_secret(secrets.token_bytes(32))
        rule = rules.finish_webhook_rotation if done else partial(rules.rotate_webhook_secret, secret=fresh)
        key = await opened.store.change(parse_key_id(key_id), rule)
    if json:
        typer.echo(as_json(_view(key, webhook_secret=None if done else fresh)))
    elif done:
        typer.echo(f"webhooks of {key.key_id} are signed with its newest secret only")
    else:
        typer.echo(f"webhook secret  {fresh}\n\nIt is not shown again. Webhooks are signed with both now;")
        typer.echo(f"when receivers know it:  overnight keys rotate-webhook-secret {key.key_id} --finish")
    return Exit.OK


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[OpenedKeys]:
    """Turns what rules and storage refuse into words."""
    try:
        async with opened_keys(settings) as opened:
            yield opened
    except InvalidKey as error:
        raise Unable(f"{error}. Nothing was changed.", Exit.USAGE) from None
    except KeyNotFound:
        raise Unable(
            f"there is no such key in {settings.data}. Nothing was changed. `overnight keys list` shows them.",
            Exit.FAILED,
        ) from None
    except RotationUnderWay:
        raise Unable(
            "two webhook secrets are live already: end that with --finish first.", Exit.FAILED
        ) from None
    except StorageError as error:
        raise Unable(f"{error}. The data is in {settings.data}.", Exit.FAILED) from error


def _made(view: KeyView) -> list[str]:
    scopes = ", ".join(view.scopes)
    return [
        f"key {view.key_id} ({visible(view.name)}) of {view.owner}: {scopes}",
        "",
        f"OVERNIGHT_API_KEY={view.key}",
        f"webhook secret    {view.webhook_secret}",
        "",
        "Neither is shown again. From the first key on, the service needs one for every call.",
    ]


def _table(found: Sequence[ApiKey], now: float) -> list[str]:
    head = ("KEY", "NAME", "OWNER", "SCOPES", "CREATED", "LAST USED", "STATE")
    rows = [
        (
            key.key_id,
            visible(key.name),
            key.owner,
            ",".join(sorted(key.scopes)),
            moment(_time(key.created_at)),
            moment(_time(key.last_used_at)),
            _state(key, now),
        )
        for key in found
    ]
    return columns([head, *rows])


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "live" if key.lives(now) else "expired"


def _view(stored: ApiKey, **shown_once: str | None) -> KeyView:
    return KeyView(
        key_id=stored.key_id,
        name=stored.name,
        owner=stored.owner,
        scopes=sorted(stored.scopes),
        limits=stored.limits,
        created_at=datetime.fromtimestamp(stored.created_at, UTC),
        expires_at=_time(stored.expires_at),
        revoked_at=_time(stored.revoked_at),
        last_used_at=_time(stored.last_used_at),
        **shown_once,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
