"""URLs by grammar: each is refused, or means the same host to every parser that will see it."""

from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import httpcore
import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from overnight.domain.address import CallbackPolicy, is_public, may_dial
from overnight.domain.callback_url import CallbackUrl, CallbackUrlRefused, parse_callback_url

steady = settings(deadline=None, max_examples=700, suppress_health_check=[HealthCheck.too_slow])

PLAIN = CallbackPolicy()
OPEN = CallbackPolicy(
    allow_http=True, allow_private=(ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8"), ip_network("::/0"))
)

schemes = st.sampled_from(
    [
        "https",
        "HTTPS",
        "hTTps",
        "http",
        "ftp",
        "file",
        "javascript",
        "data",
        "ws",
        "",
        "https:https",
        "h\tttps",
    ]
)
slashes = st.sampled_from(["://", "://", "://", "://", ":", ":/", ":///", ":\\\\", "", ":/\\"])
users = st.sampled_from(["", "", "", "", "user@", "user:pass@", "@", ":@", "good.example%40", "a@b@", "%00@"])
labels = st.one_of(
    st.sampled_from(
        ["example", "com", "a", "localhost", "xn--bcher-kva", "xn--", "xn--a", "-a", "a-", "a--b", "a_b", ""]
    ),
    st.sampled_from(
        ["internal", "local", "arpa", "onion", "bücher", "ⓔxample", "ex\u00adample", "%65xample"]
    ),
    st.from_regex(r"[a-zA-Z0-9-]{1,64}", fullmatch=True),
)
dots = st.sampled_from([".", ".", ".", ".", "\u3002", "\uff0e", "%2e", ".."])
names = st.lists(st.tuples(labels, dots), min_size=1, max_size=5).map(
    lambda pairs: "".join(label + dot for label, dot in pairs)[:-1]
)
octets = st.one_of(
    st.integers(0, 300).map(str),
    st.integers(0, 255).map(hex),
    st.integers(0, 255).map(lambda n: f"0{n:o}"),
    st.sampled_from(["", "0x", "00", "①", "127"]),
)
v4 = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.lists(octets, min_size=1, max_size=5).map(".".join),
    st.integers(0, 2**32).map(str),
)
v6_inner = st.one_of(
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda a: a.exploded.upper()),
    st.ip_addresses(v=4).map(lambda a: f"::ffff:{a}"),
    st.ip_addresses(v=4).map(lambda a: f"64:ff9b::{a}"),
    st.ip_addresses(v=4).map(lambda a: f"::{a}"),
    st.sampled_from(["::", "::1", "fe80::1", "v1.a", "1::2::3", "::1]", "[::1", "0:0:0:0:0:0:0:1", ""]),
)
zones = st.sampled_from(["", "", "", "%1", "%25lo", "%eth0", "%"])
v6 = st.builds("[{}{}]".format, v6_inner, zones)
hosts = st.one_of(
    names,
    names.map(lambda name: name + "."),
    v4,
    v4.map(lambda a: a + "."),
    v6,
    v6_inner,
    st.just("hooks.example.com"),
)
ports = st.one_of(
    st.sampled_from(
        ["", "", "", ":443", ":80", ":8443", ":0443", ":", ":0", ":65536", ":-1", ":+443", ":443 "]
    ),
    st.sampled_from(
        [
            ":\uff14\uff14\uff13",
            ":443:443",
            ":443@10.0.0.1",
            ":443\\@10.0.0.1",
            ":443#",
            ":99999999999999999999",
        ]
    ),
    st.integers(1, 65535).map(lambda n: f":{n}"),
)
paths = st.one_of(
    st.sampled_from(
        ["", "/", "/hook?a=b", "?q", "#f", "/#f", "\\x", "//other.example/", "/../..", "/%00", "/\r\nX: y"]
    ),
    st.sampled_from(
        ["/@10.0.0.1", ";x", "/a b", "/ü", "/\x7f", "?@10.0.0.1:80/", "/" + "a" * 2048, "/%", "/%zz"]
    ),
    st.text(max_size=20),
)
spaces = st.sampled_from(["", "", "", "", " ", "\n", "\t", "\u00a0", "\ufeff", "\0"])
urls = st.builds("{}{}{}{}{}{}{}{}".format, spaces, schemes, slashes, users, hosts, ports, paths, spaces)
likely = st.builds("https://{}{}{}".format, hosts, ports, paths)
public = st.sampled_from(
    ["93.184.216.34", "[2606:2800::1]", "[::ffff:93.184.216.34]", "[2606:2800::FFFF:5DB8:D822]"]
)
good_names = st.lists(
    st.from_regex(r"[a-zA-Z]([a-zA-Z0-9]{0,8}-?[a-zA-Z0-9])?|xn--bcher-kva", fullmatch=True),
    min_size=2,
    max_size=5,
).map(".".join)
good_paths = st.one_of(
    st.sampled_from(
        ["", "/", "?q=@10.0.0.1", "//x", "/a/../b", "/%2e%2e/%41", "/@x:80", "/:8080", "/;a=b", "/[x]", "?"]
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12).map(lambda text: "/" + text),
)
acceptable = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["https://", "HTTPS://", "http://"]),
    st.one_of(good_names, good_names.map(lambda name: name + "."), public, st.ip_addresses(v=4).map(str), v6),
    st.sampled_from(["", ":443", ":80", ":8443"]),
    good_paths,
)
policies = st.sampled_from([PLAIN, OPEN])


def parsed(text: str, policy: CallbackPolicy) -> CallbackUrl | None:
    try:
        return parse_callback_url(text, policy=policy)
    except CallbackUrlRefused:
        return None


@steady
@given(st.one_of(urls, likely, acceptable, acceptable), policies)
@example("https://hooks.example.com:443/hook?a=b", PLAIN)
@example("https://[::FFFF:93.184.216.34]:443", PLAIN)
@example("http://LOCALHOST:8000", OPEN)
@example("http://[fd00::5]:8000/", OPEN)
def test_an_accepted_url_means_the_same_to_everybody(text: str, policy: CallbackPolicy) -> None:
    url = parsed(text, policy)
    if url is not None:
        every_parser_sees_the_host_that_was_checked(url, policy)
        a_literal_may_be_dialled_and_has_one_spelling(url, policy)
        assert parse_callback_url(url.normalised, policy=policy) == url
        assert url.normalised.isascii()
        assert url.normalised.isprintable()


def every_parser_sees_the_host_that_was_checked(url: CallbackUrl, policy: CallbackPolicy) -> None:
    split, by_httpx, by_urllib3 = (
        urlsplit(url.normalised),
        httpx.URL(url.normalised),
        parse_url(url.normalised),
    )
    dialled = httpcore.URL(url.normalised)
    default = 443 if url.scheme == "https" else 80
    meant = (url.scheme, url.host, url.port)
    assert url.scheme in {"https", *(["http"] if policy.allow_http else [])}
    assert (split.scheme, split.hostname, split.port or default) == meant
    assert (by_httpx.scheme, by_httpx.raw_host.decode(), by_httpx.port or default) == meant
    assert (by_urllib3.scheme, (by_urllib3.host or "").strip("[]"), by_urllib3.port or default) == meant
    assert (dialled.scheme.decode(), dialled.host.decode().strip("[]"), dialled.port or default) == meant
    assert [split.username, split.password, split.fragment, by_urllib3.auth] == [None, None, "", None]
    assert by_httpx.userinfo == b""


def a_literal_may_be_dialled_and_has_one_spelling(url: CallbackUrl, policy: CallbackPolicy) -> None:
    if url.address is not None:
        assert may_dial(url.address, policy)
        assert policy is not PLAIN or is_public(url.address)
        assert url.host == str(url.address) == str(ip_address(url.host))
        assert not isinstance(url.address, IPv6Address) or url.address.ipv4_mapped is None


@steady
@given(st.text())
def test_any_text_is_refused_or_taken(text: str) -> None:
    parsed(text, PLAIN)
