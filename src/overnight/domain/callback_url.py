"""Which `callback_url` is accepted, and the one form it is kept in (facts: security 5.1).

The text is taken apart by patterns of our own and not by a URL library: only what they spell out gets through,
and no two parsers can disagree about the host. Only the normalised form is stored, and ever sent to.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Literal

from overnight.domain.address import (
    Address,
    CallbackPolicy,
    is_opened,
    literal_address,
    may_dial,
    opens_loopback,
)

__all__ = ["CallbackPolicy", "CallbackUrl", "CallbackUrlRefused", "Reason", "parse_callback_url"]

Reason = Literal["length", "characters", "shape", "scheme", "userinfo", "fragment", "host", "address", "port"]

MAX_LENGTH = 2048
LOCALHOST = "localhost"

_REFUSED_CHARACTER = re.compile(r'[^\x21-\x7e]|[\\<>"{}|^`]')
_SHAPE = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?]+)(?P<path>[^?]*)(?P<query>\?.*)?"
)
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?P<colon>:(?P<port>.*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_RESERVED = (".localhost", ".local", ".localdomain", ".internal", ".home.arpa", ".arpa", ".onion")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class CallbackUrlRefused(ValueError):
    """`message` may be shown to anybody: it never repeats the URL."""

    def __init__(self, reason_code: Reason, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackUrl:
    """An accepted URL. `host` is lower case, without brackets; `address` is set if it is a literal address."""

    normalised: str
    scheme: str
    host: str
    port: int
    authority: str
    target: str
    address: Address | None


def parse_callback_url(text: str, *, policy: CallbackPolicy) -> CallbackUrl:
    """Raises CallbackUrlRefused and nothing else."""
    scheme, authority, target = _split(text, policy)
    host, port_text = _split_authority(authority)
    address = _literal(host)
    name = _name(host, policy) if address is None else str(address)
    port = _port(port_text, scheme)
    if not _port_is_accepted(port, name, address, policy):
        raise CallbackUrlRefused("port", f"callback_url must use port {_ports_in_words(policy)}.")
    if address is not None and not may_dial(address, policy):
        raise CallbackUrlRefused(
            "address",
            "callback_url names an address that is not public. Use a public one, or ask the operator to "
            "list its network in OVERNIGHT_CALLBACK_ALLOW_PRIVATE.",
        )
    return _normalised(scheme, name, port, target, address)


def _split(text: str, policy: CallbackPolicy) -> tuple[str, str, str]:
    """Scheme, authority, and path with query."""
    _check_length(text)
    if _REFUSED_CHARACTER.search(text):
        raise CallbackUrlRefused(
            "characters",
            "callback_url has a character that a URL may not have. Percent-encode it; write names that are "
            "not ASCII as xn-- labels.",
        )
    if "#" in text:
        raise CallbackUrlRefused(
            "fragment", "callback_url must have no fragment: leave out the # and what follows."
        )
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise CallbackUrlRefused("shape", "callback_url must look like https://host/path.")
    return (
        _scheme(found["scheme"], policy),
        found["authority"],
        (found["path"] or "/") + (found["query"] or ""),
    )


def _check_length(text: str) -> None:
    if not 1 <= len(text) <= MAX_LENGTH:
        raise CallbackUrlRefused("length", f"callback_url must have 1 to {MAX_LENGTH} characters.")


def _scheme(text: str, policy: CallbackPolicy) -> str:
    scheme = text.lower()
    if scheme == "https" or (scheme == "http" and policy.allow_http):
        return scheme
    if scheme == "http":
        raise CallbackUrlRefused(
            "scheme",
            "callback_url must use https. The operator can allow http by OVERNIGHT_CALLBACK_ALLOW_HTTP=1.",
        )
    raise CallbackUrlRefused("scheme", "callback_url must use https.")


def _split_authority(authority: str) -> tuple[str, str | None]:
    """The host as written, in brackets if it had them, and the text of the port."""
    if "@" in authority:
        raise CallbackUrlRefused(
            "userinfo",
            "callback_url must have no user name or password. Deliveries are signed: check the signature.",
        )
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise _host_refused()
    host = found["name"] if found["v6"] is None else f"[{found['v6']}]"
    return host, found["port"] if found["colon"] else None


def _literal(host: str) -> Address | None:
    """The address that a host is, or None if it is a name."""
    try:
        return literal_address(host)
    except AddressValueError:
        raise _host_refused() from None


def _name(host: str, policy: CallbackPolicy) -> str:
    name = host.lower().removesuffix(".")
    if name == LOCALHOST and opens_loopback(policy):
        return name
    labels = name.split(".")
    if len(name) > 253 or len(labels) < 2 or not all(_is_label(label) for label in labels):
        raise _host_refused()
    if name.endswith(_RESERVED):
        raise _host_refused()
    return name


def _is_label(label: str) -> bool:
    """Letters, digits and hyphens; `--` in third place only for a real xn-- label (IDNA2008)."""
    if _LABEL.fullmatch(label) is None:
        return False
    return label[2:4] != "--" or (label.startswith("xn--") and _is_punycode(label[4:]))


def _is_punycode(text: str) -> bool:
    """Whether it is the one way to write a text that is not ASCII."""
    try:
        decoded = text.encode("ascii").decode("punycode")
        return not decoded.isascii() and decoded.encode("punycode").decode("ascii") == text
    except UnicodeError:
        return False


def _host_refused() -> CallbackUrlRefused:
    return CallbackUrlRefused(
        "host",
        "callback_url must name a public host: a full domain name, a dotted IPv4 address, or an IPv6 address "
        "in brackets.",
    )


def _port(text: str | None, scheme: str) -> int:
    if text is None:
        return _DEFAULT_PORTS[scheme]
    if _PORT.fullmatch(text) is None or int(text) > 65535:
        raise CallbackUrlRefused("port", "callback_url has a port that is not a number from 1 to 65535.")
    return int(text)


def _port_is_accepted(port: int, name: str, address: Address | None, policy: CallbackPolicy) -> bool:
    """What the operator opened by name has every port; everything else has the few of the policy."""
    if name == LOCALHOST or (address is not None and is_opened(address, policy)):
        return True
    return port in _accepted_ports(policy)


def _accepted_ports(policy: CallbackPolicy) -> frozenset[int]:
    return policy.ports | {80} if policy.allow_http else policy.ports


def _ports_in_words(policy: CallbackPolicy) -> str:
    return " or ".join(str(port) for port in sorted(_accepted_ports(policy)))


def _normalised(scheme: str, host: str, port: int, target: str, address: Address | None) -> CallbackUrl:
    shown = f"[{host}]" if isinstance(address, IPv6Address) else host
    authority = shown if port == _DEFAULT_PORTS[scheme] else f"{shown}:{port}"
    normalised = f"{scheme}://{authority}{target}"
    _check_length(normalised)
    return CallbackUrl(
        normalised=normalised,
        scheme=scheme,
        host=host,
        port=port,
        authority=authority,
        target=target,
        address=address,
    )
