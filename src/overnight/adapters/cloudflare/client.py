"""Cloudflare's official client as we use it: opened by the given token alone, and heard in its own words."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cloudflare
import httpx

TIMEOUT_SECONDS = 30.0


@asynccontextmanager
async def cloudflare_client(
    url: str,
    token: str,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    retries: int = cloudflare.DEFAULT_MAX_RETRIES,
) -> AsyncIterator[cloudflare.AsyncCloudflare]:
    """`url` is that of Cloudflare's API. `retries`: how often it makes a call again by itself, after pauses."""
    async with (
        httpx.AsyncClient(timeout=timeout_seconds, trust_env=False) as sender,
        cloudflare.AsyncCloudflare(
            api_token=token, base_url=url, http_client=sender, max_retries=retries
        ) as client,
    ):
        # It also takes CLOUDFLARE_EMAIL and its like from the environment, and then sends these instead of the token.
        client.api_email = client.api_key = client.user_service_key = None
        yield client


def said(error: cloudflare.APIStatusError) -> str:
    """The status, and Cloudflare's own words: its codes say more than the status."""
    words = [f"{each.code} {each.message}" for each in error.errors if each.message]
    return f"HTTP {error.status_code}{''.join(f', {word}' for word in words)}"
