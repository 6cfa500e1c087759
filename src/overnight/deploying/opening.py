"""Puts a deployment, or an account to look at, together from the settings."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import overnight
from overnight.adapters.system import SystemClock
from overnight.deploying.account import Account, opened_account
from overnight.deploying.deploy import Deployment
from overnight.deploying.wrangler import CONFIG, Wrangler
from overnight.domain.keys import ApiKey
from overnight.settings import Settings, SettingsError
from overnight.wiring import opened_keys

DATABASE = "overnight.db"


@asynccontextmanager
async def opened_deployment(
    settings: Settings, edge: Path | None, *, make_key: Callable[[], Awaitable[str]], replace_secrets: bool
) -> AsyncIterator[Deployment]:
    """`edge` is the directory of that name in a clone. Raises SettingsError if something is not given."""
    token, account_id = _credentials(settings)
    directory = _edge(edge)
    async with opened_account_of(settings) as account:

        async def stored_keys() -> Sequence[ApiKey]:
            if not (settings.data / DATABASE).exists():  # a look makes nothing
                return []
            async with opened_keys(settings) as opened:
                return await opened.store.keys()

        yield Deployment(
            settings=settings,
            account=account,
            account_id=account_id,
            wrangler=Wrangler(
                directory, api_url=settings.cloudflare_api_url, token=token, account_id=account_id
            ),
            clock=SystemClock(),
            stored_keys=stored_keys,
            make_key=make_key,
            replace_secrets=replace_secrets,
        )


@asynccontextmanager
async def opened_account_of(settings: Settings) -> AsyncIterator[Account]:
    """Raises SettingsError."""
    token, account_id = _credentials(settings)
    async with opened_account(settings.cloudflare_api_url, token, account_id) as account:
        yield account


def _credentials(settings: Settings) -> tuple[str, str]:
    """The token and the id of the account."""
    token = settings.cloudflare_api_token
    if token is None or not token.get_secret_value():
        raise SettingsError(
            "CLOUDFLARE_API_TOKEN: make one in the dashboard, below My Profile, API Tokens (docs/edge.md says with "
            "which permissions)."
        )
    if not settings.cloudflare_account_id:
        raise SettingsError("CLOUDFLARE_ACCOUNT_ID: it is in the address of the account's dashboard.")
    return token.get_secret_value(), settings.cloudflare_account_id


def _edge(given: Path | None) -> Path:
    places = [given] if given is not None else [Path(overnight.__file__).parents[2] / "edge", Path("edge")]
    for place in places:
        if (place / CONFIG).is_file():
            return place.absolute()
    raise SettingsError(
        f"There is no {CONFIG} in {' or '.join(str(place) for place in places)}. The Worker is in the directory "
        "edge/ of a clone: name that with --edge."
    )
