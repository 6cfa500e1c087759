"""The addresses that a webhook may reach, case by case and over whole networks."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.domain.address import Address, CallbackPolicy, Network, is_public, may_dial, opens_loopback

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CLOSED = CallbackPolicy()

NOT_PUBLIC_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
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
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:4:112::/48",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "4000::/3",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


def opening(*networks: str) -> CallbackPolicy:
    return CallbackPolicy(allow_private=tuple(ip_network(network) for network in networks))


def addresses_in(network: Network) -> st.SearchStrategy[Address]:
    first = int(network.network_address)
    kind = type(network.network_address)
    return st.integers(first, first + network.num_addresses - 1).map(kind)


def mapped(address: Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}")


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "168.63.129.15",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2001:200::1",
        "2001:db9::1",
        "2606:4700:4700::1111",
        "2a00:1450:4001:81b::200e",
        "3ffe:ffff::1",
    ],
)
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(ip_address(text))
    assert may_dial(ip_address(text), CLOSED)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "192.0.0.8",
        "192.0.0.9",
        "192.0.0.192",
        "192.88.99.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:168.63.129.16",
        "64:ff9b::8.8.8.8",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:4:112::1",
        "2002:7f00:1::1",
        "2620:4f:8000::1",
        "3fff::1",
        "5f00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff0e::1",
    ],
)
def test_odd_addresses_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))
    assert not may_dial(ip_address(text), CLOSED)


@steady
@given(st.sampled_from(NOT_PUBLIC_NETWORKS).map(ip_network).flatmap(addresses_in))
def test_no_address_of_a_listed_network_is_public(address: Address) -> None:
    assert not is_public(address)
    assert not may_dial(address, CLOSED)


@steady
@given(addresses_in(IPv4Network("0.0.0.0/0")))
def test_a_mapped_address_is_judged_as_the_one_it_means(address: Address) -> None:
    assert is_public(mapped(address)) == is_public(address)


@steady
@given(addresses_in(IPv6Network("::/0")))
def test_outside_global_unicast_no_ipv6_address_is_public(address: Address) -> None:
    if address not in IPv6Network("2000::/3") and address not in IPv6Network("::ffff:0:0/96"):
        assert not is_public(address)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2606:4700:4700::1111%1", "::ffff:8.8.8.8%1", "::1%lo"])
def test_a_scope_id_is_refused_whatever_is_allowed(text: str) -> None:
    everything = opening(
        "::/0", "0.0.0.0/0", "fe80::1/128", "::1/128", "8.8.8.8/32", "2606:4700:4700::1111/128"
    )
    assert not is_public(ip_address(text))
    assert not may_dial(ip_address(text), everything)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.0/24", "10.1.2.3"),
        ("10.1.2.0/24", "::ffff:10.1.2.3"),
        ("0.0.0.0/0", "192.168.1.1"),
        ("fd00::/8", "fd12:3456::1"),
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1/32", "127.0.0.1"),
        ("::1/128", "::1"),
        ("169.254.169.254/32", "169.254.169.254"),
        ("fe80::1/128", "fe80::1"),
        ("168.63.129.16/32", "168.63.129.16"),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8"),
    ],
)
def test_the_operator_can_open_an_address(network: str, text: str) -> None:
    assert may_dial(ip_address(text), opening(network))


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.1.2.0/24", "10.1.3.1"),
        ("10.0.0.0/8", "192.168.0.1"),
        ("0.0.0.0/0", "127.0.0.1"),
        ("126.0.0.0/7", "127.0.0.1"),
        ("0.0.0.0/0", "0.0.0.0"),
        ("0.0.0.0/0", "169.254.169.254"),
        ("169.254.0.0/16", "169.254.169.254"),
        ("169.254.0.0/16", "169.254.1.1"),
        ("168.63.0.0/16", "168.63.129.16"),
        ("100.64.0.0/10", "100.100.100.200"),
        ("192.0.0.0/24", "192.0.0.192"),
        ("::/0", "::1"),
        ("::/0", "::127.0.0.1"),
        ("::/0", "::ffff:0:127.0.0.1"),
        ("::/0", "2002:7f00:1::1"),
        ("::/0", "fe80::1"),
        ("fe80::/10", "fe80::1"),
        ("fd00::/8", "fd00:ec2::254"),
        ("fd00::/8", "fd00:ec2::23"),
        ("fc00::/7", "fd20:ce::254"),
        ("64:ff9b::/96", "64:ff9b::127.0.0.1"),
        ("64:ff9b::/96", "64:ff9b::169.254.169.254"),
    ],
)
def test_a_wide_network_opens_nothing_by_accident(network: str, text: str) -> None:
    assert not may_dial(ip_address(text), opening(network))


@pytest.mark.parametrize(
    ("network", "opened"),
    [
        ("127.0.0.0/8", True),
        ("127.0.0.1/32", True),
        ("::1/128", True),
        ("0.0.0.0/0", False),
        ("::/0", False),
        ("10.0.0.0/8", False),
    ],
)
def test_loopback_is_open_only_when_it_is_named(network: str, opened: bool) -> None:
    assert opens_loopback(opening(network)) is opened
