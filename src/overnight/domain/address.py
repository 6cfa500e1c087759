"""Which network addresses a webhook may be sent to (facts: security 5.3 and 5.4)."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackPolicy:
    """What the operator allows: `OVERNIGHT_CALLBACK_ALLOW_HTTP` and `OVERNIGHT_CALLBACK_ALLOW_PRIVATE`.

    `ports` are the ports of https URLs; http, where it is allowed, adds port 80.
    """

    allow_http: bool = False
    allow_private: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({443})


# `is_global` alone will not do: in CPython 3.11.7 it is true of multicast, 6to4, NAT64, 192.0.0.9 and
# 168.63.129.16, and it differs by patch release. So an address must pass it and these tables too.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT; Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local; most metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # Oracle's metadata service
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",
        "2001:4:112::/48",
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries any IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_LOOPBACK_V4 = IPv4Network("127.0.0.0/8")
_LOOPBACK_V6 = IPv6Network("::1/128")
_NAMED_ALONE: tuple[Network, ...] = (
    IPv4Network("0.0.0.0/8"),  # Linux takes 0.0.0.0 for loopback
    IPv4Network("169.254.0.0/16"),
    IPv6Network("fe80::/10"),
    # Metadata services outside link-local: Azure, Alibaba, Oracle, AWS (also its pod identities), Google.
    IPv4Network("168.63.129.16/32"),
    IPv4Network("100.100.100.200/32"),
    IPv4Network("192.0.0.192/32"),
    IPv6Network("fd00:ec2::254/128"),
    IPv6Network("fd00:ec2::23/128"),
    IPv6Network("fd20:ce::254/128"),
    # Forms that carry an IPv4 address: compatible (with `::`), translated, 6to4.
    IPv6Network("::/96"),
    IPv6Network("::ffff:0:0:0/96"),
    IPv6Network("2002::/16"),
)
_NAT64 = IPv6Network("64:ff9b::/96")

_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


def literal_address(host: str) -> Address | None:
    """The address that the host of a URL is, IPv6 in brackets; None if it is a name.

    It must be spelled in the canonical way: resolvers read hosts that end in a number as addresses too, in octal,
    hexadecimal or with parts left out. Raises AddressValueError.
    """
    if host.startswith("["):
        return _ipv6(host)
    last = host.removesuffix(".").rpartition(".")[2]
    return IPv4Address(host) if _NUMBER.fullmatch(last) else None


def _ipv6(text: str) -> Address:
    """An IPv4-mapped address becomes the IPv4 address that it means, so that it has one spelling."""
    found = _BRACKETED.fullmatch(text)
    if found is None:
        raise AddressValueError
    return unwrapped(IPv6Address(found[1]))


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped one (::ffff:a.b.c.d), which is what the system would dial."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def is_public(address: Address) -> bool:
    """Whether it is a plain unicast address of the Internet. One with a scope id never is."""
    if _has_scope(address):
        return False
    address = unwrapped(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not _within(address, _NOT_PUBLIC_V4)
    return address.is_global and address in _UNICAST_V6 and not _within(address, _NOT_PUBLIC_V6)


def may_dial(address: Address, policy: CallbackPolicy) -> bool:
    """Whether a webhook may connect to it: it is public, or a CIDR of the operator opens it."""
    return is_public(address) or is_opened(address, policy)


def is_opened(address: Address, policy: CallbackPolicy) -> bool:
    """Whether the operator named it.

    A wide CIDR opens nothing by accident: loopback needs one that lies inside loopback, and link-local and
    metadata addresses need one that names them alone (/32 or /128). Behind the NAT64 prefix, the IPv4
    address that is meant must pass too.
    """
    if _has_scope(address):
        return False
    address = unwrapped(address)
    if not any(_opens(network, address) for network in policy.allow_private):
        return False
    if isinstance(address, IPv6Address) and address in _NAT64:
        return may_dial(IPv4Address(address.packed[-4:]), policy)
    return True


def opens_loopback(policy: CallbackPolicy) -> bool:
    """Whether the operator named loopback, or a part of it: then the name `localhost` is accepted too."""
    return any(_inside_loopback(network) for network in policy.allow_private)


def _opens(network: Network, address: Address) -> bool:
    if address not in network:
        return False
    if address in _LOOPBACK_V4 or address in _LOOPBACK_V6:
        return _inside_loopback(network)
    return network.num_addresses == 1 or not _within(address, _NAMED_ALONE)


def _inside_loopback(network: Network) -> bool:
    if isinstance(network, IPv4Network):
        return network.subnet_of(_LOOPBACK_V4)
    return network.subnet_of(_LOOPBACK_V6)


def _has_scope(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.scope_id is not None


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
