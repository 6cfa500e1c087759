"""Who reaches the service, by the address that it listens on."""

from collections.abc import Sequence

from overnight.flows.keyring import KeyRing
from overnight.settings import Settings, SettingsError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
OWN_NAMES = ("127.0.0.1", "[::1]", "localhost")


async def refuse_public(settings: Settings, keys: KeyRing) -> None:
    """Raises SettingsError for a public address without a key."""
    if settings.host in LOOPBACK or settings.allow_public or await keys.any():
        return
    raise SettingsError(
        "OVERNIGHT_HOST: the address is not loopback, and there is no API key yet: whoever can reach the service "
        "could run anything on this machine. Nothing was started. Make a key with `overnight keys create` (for "
        "the same data directory), or set OVERNIGHT_ALLOW_PUBLIC=1 if the network is yours alone."
    )


def allowed_hosts(settings: Settings) -> Sequence[str]:
    """Any, for a public address that no names are set for: there, the key and not the name keeps others out."""
    if settings.allowed_hosts:
        return (*OWN_NAMES, *settings.allowed_hosts)
    return OWN_NAMES if settings.host in LOOPBACK else ("*",)
