"""Where a run may connect to (facts: security 4): a rule about hosts and ports, and one about addresses."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import AddressValueError
from typing import Literal

from overnight.domain.address import Address, CallbackPolicy, is_opened, literal_address, may_dial

PORTS = frozenset({80, 443})

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


class Reason(StrEnum):
    """Why a connection was denied."""

    OFF = "off"
    PORT = "port"
    NOT_LISTED = "not_listed"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """`host` is lower case, without brackets or a last dot; `address` is set if it is a literal address."""

    host: str
    port: int
    address: Address | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """`allow` holds exact hosts and `*.suffix`. The addresses follow the rules of the webhook sender."""

    mode: Literal["off", "allowlist", "public"] = "public"
    allow: tuple[str, ...] = ()
    addresses: CallbackPolicy = field(default_factory=CallbackPolicy)
    ports: frozenset[int] = PORTS

    def refuses(self, destination: Destination) -> Reason | None:
        """What can be said before a name is looked up: names that may not be reached are never asked for."""
        if self.mode == "off":
            return Reason.OFF
        if self.mode == "allowlist" and not any(_covers(entry, destination.host) for entry in self.allow):
            return Reason.NOT_LISTED
        if destination.port not in self.ports and not self.addresses.allow_private:
            return Reason.PORT
        return None

    def refuses_address(self, address: Address, port: int) -> Reason | None:
        """What the operator opened by address has every port; everything else has the few of the policy."""
        if not may_dial(address, self.addresses):
            return Reason.ADDRESS
        if port not in self.ports and not is_opened(address, self.addresses):
            return Reason.PORT
        return None


def destination(host: str, port: str) -> Destination:
    """From the parts of an authority, the host in brackets if it is IPv6. Raises ValueError."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    address = literal_address(host)
    name = _name(host) if address is None else str(address)
    return Destination(host=name, port=int(port), address=address)


def allowed_host(entry: str) -> str:
    """An entry of the list of allowed hosts, as it is compared. Raises ValueError."""
    wildcard, host = ("*.", entry[2:]) if entry.startswith("*.") else ("", entry)
    try:
        found = destination(host, "443")
    except AddressValueError:
        raise ValueError("an entry is not a host, or *.suffix") from None
    if wildcard and found.address is not None:
        raise ValueError("an address cannot have a wildcard")
    return wildcard + found.host


def _covers(entry: str, host: str) -> bool:
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry


def _name(host: str) -> str:
    """Letters, digits, hyphens, and the underscores that are found in practice."""
    name = host.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("the host is neither a name nor an address")
    return name
