"""Which callback URLs are accepted, in what form they are kept, and that nothing else can come out."""

import re
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overnight.domain.address import may_dial
from overnight.domain.callback_url import CallbackPolicy, CallbackUrlRefused, parse_callback_url

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CLOSED = CallbackPolicy()
HTTP = CallbackPolicy(allow_http=True)
LAPTOP = CallbackPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
CANARY = "canary"


def refusal(text: str, policy: CallbackPolicy = CLOSED) -> CallbackUrlRefused:
    with pytest.raises(CallbackUrlRefused) as caught:
        parse_callback_url(text, policy=policy)
    return caught.value


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM/Path?Q=1", "https://example.com/Path?Q=1"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com./", "https://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com/a/../b//c?d=[e]&f=/?g@h", "https://example.com/a/../b//c?d=[e]&f=/?g@h"),
        ("https://example.com/%zz%00", "https://example.com/%zz%00"),
        ("https://xn--mnchen-3ya.example/", "https://xn--mnchen-3ya.example/"),
        ("https://a1-b.c-2.example/", "https://a1-b.c-2.example/"),
        ("https://1.1.1.1/", "https://1.1.1.1/"),
        ("https://[2606:4700:4700:0:0:0:0:1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://[::FFFF:8.8.8.8]/", "https://8.8.8.8/"),
    ],
)
def test_an_accepted_url_has_one_form(text: str, normalised: str) -> None:
    assert parse_callback_url(text, policy=CLOSED).normalised == normalised


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "length"),
        ("https://example.com/" + "a" * 2029, "length"),
        ("https://example.com?" + "a" * 2028, "length"),  # one too long once the path is written
        ("https://example.com/ ", "characters"),
        ("https://example.com/\x00", "characters"),
        ("https://example.com/\r\nX: y", "characters"),
        ("https://example.com/\x7f", "characters"),
        ("https://example.com\\@example.org/", "characters"),
        ('https://example.com/`<>"{}|^', "characters"),
        ("https://münchen.example/", "characters"),
        ("https://example\uff0ecom/", "characters"),
        ("https://\ud800.example/", "characters"),
        ("example.com", "shape"),
        ("//example.com/", "shape"),
        ("https:example.com", "shape"),
        ("https:/example.com", "shape"),
        ("https:///example.com", "shape"),
        ("https://", "shape"),
        ("https://?x", "shape"),
        ("http://example.com/", "scheme"),
        ("file://example.com/", "scheme"),
        ("gopher://example.com/", "scheme"),
        ("https://user@example.com/", "userinfo"),
        ("https://user:pass@example.com/", "userinfo"),
        ("https://@example.com/", "userinfo"),
        ("https://example.com/#", "fragment"),
        ("https://example.com#@example.org/", "fragment"),
        ("https://example.com:/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:0443/", "port"),
        ("https://example.com:+443/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:8443/", "port"),
        ("https://example.com:80/", "port"),
        ("https://1.1.1.1:22/", "port"),
        ("https://example.com:443:443/", "port"),
        ("https://:443/", "host"),
        ("https://localhost/", "host"),
        ("https://intranet/", "host"),
        ("https://example..com/", "host"),
        ("https://.example.com/", "host"),
        ("https://example.com../", "host"),
        ("https://./", "host"),
        ("https://-a.example/", "host"),
        ("https://a-.example/", "host"),
        ("https://a_b.example/", "host"),
        ("https://a%2eb.example/", "host"),
        ("https://ab--c.example/", "host"),
        ("https://xn--.example/", "host"),
        ("https://xn--abc-.example/", "host"),
        ("https://xn--99999999.example/", "host"),
        (f"https://{'a' * 64}.example/", "host"),
        (f"https://{'.'.join(['a' * 60] * 5)}/", "host"),
        ("https://a.localhost/", "host"),
        ("https://a.LOCAL./", "host"),
        ("https://a.localdomain/", "host"),
        ("https://metadata.google.internal/", "host"),
        ("https://router.home.arpa/", "host"),
        ("https://1.0.0.127.in-addr.arpa/", "host"),
        ("https://a.onion/", "host"),
        ("https://2130706433/", "host"),
        ("https://127.1/", "host"),
        ("https://0x7f.0.0.1/", "host"),
        ("https://0x7f000001/", "host"),
        ("https://example.0x/", "host"),
        ("https://0177.0.0.1/", "host"),
        ("https://1.1.1.01/", "host"),
        ("https://1.1.1.1./", "host"),
        ("https://1.1.1.256/", "host"),
        ("https://example.123/", "host"),
        ("https://2606:4700::1/", "host"),
        ("https://[]/", "host"),
        ("https://[/", "host"),
        ("https://]/", "host"),
        ("https://[[::1]]/", "host"),
        ("https://[::1/", "host"),
        ("https://[::1]a/", "host"),
        ("https://a[::1]/", "host"),
        ("https://[1.1.1.1]/", "host"),
        ("https://[example.com]/", "host"),
        ("https://[v1.a]/", "host"),
        ("https://[2606:4700::1%eth0]/", "host"),
        ("https://[2606:4700::1%25eth0]/", "host"),
        ("https://127.0.0.1/", "address"),
        ("https://169.254.169.254/latest/meta-data/", "address"),
        ("https://10.0.0.1/", "address"),
        ("https://[::1]/", "address"),
        ("https://[::ffff:127.0.0.1]/", "address"),
        ("https://[::ffff:7f00:1]/", "address"),
        ("https://[64:ff9b::7f00:1]/", "address"),
    ],
)
def test_a_url_outside_the_rules_is_refused_for_its_reason(text: str, reason: str) -> None:
    assert refusal(text).reason_code == reason


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("http://example.com/", HTTP),
        ("http://example.com:443/", HTTP),
        ("https://example.com:80/", HTTP),
        ("https://example.com:8443/", CallbackPolicy(ports=frozenset({443, 8443}))),
        ("http://127.0.0.1:8000/", LAPTOP),
        ("https://[::1]:8443/", LAPTOP),
        ("http://[::ffff:127.0.0.1]:8000/", LAPTOP),
        ("http://localhost:8000/", LAPTOP),
        ("http://LOCALHOST.:8000/", LAPTOP),
    ],
)
def test_the_operator_can_allow_more(text: str, policy: CallbackPolicy) -> None:
    accepted = parse_callback_url(text, policy=policy)
    assert accepted.normalised == f"{accepted.scheme}://{accepted.authority}/"


@pytest.mark.parametrize(
    ("text", "policy", "reason"),
    [
        ("http://example.com:8080/", LAPTOP, "port"),
        ("http://1.1.1.1:8080/", LAPTOP, "port"),
        ("http://a.localhost/", LAPTOP, "host"),
        ("http://intranet/", LAPTOP, "host"),
        ("http://10.0.0.1/", LAPTOP, "address"),
        ("http://127.0.0.1:65536/", LAPTOP, "port"),
        ("http://127.0.0.1:0/", LAPTOP, "port"),
        ("http://10.0.0.1:8080/", LAPTOP, "port"),
        (
            "http://localhost/",
            CallbackPolicy(allow_http=True, allow_private=(ip_network("10.0.0.0/8"),)),
            "host",
        ),
        (
            "http://127.0.0.1/",
            CallbackPolicy(allow_http=True, allow_private=(ip_network("0.0.0.0/0"),)),
            "address",
        ),
        ("http://127.0.0.1/", CallbackPolicy(allow_private=(ip_network("127.0.0.0/8"),)), "scheme"),
    ],
)
def test_what_the_operator_allows_goes_no_further(text: str, policy: CallbackPolicy, reason: str) -> None:
    assert refusal(text, policy).reason_code == reason


@pytest.mark.parametrize(
    "text",
    [
        f"https://{CANARY}:{CANARY}@example.com/",
        f"https://example.com/#{CANARY}",
        f"https://{CANARY}/",
        f"https://example.com:{CANARY}/",
        f"{CANARY}://example.com/",
        f"{CANARY}",
        f"https://[{CANARY}]/",
        f"https://127.0.0.1/{CANARY}",
        f"https://example.com:8443/{CANARY}",
        f"https://example.com/{CANARY} ",
    ],
)
def test_a_refusal_never_repeats_the_url(text: str) -> None:
    refused = refusal(text)
    assert refused.message == str(refused)
    assert CANARY not in refused.message


labels = st.one_of(
    st.text("abcXYZ019-_", max_size=6),
    st.sampled_from(
        [
            "xn--mnchen-3ya",
            "xn--",
            "xn--a-",
            "localhost",
            "local",
            "com",
            "0x7f",
            "0X",
            "127",
            "1",
            "00",
            "%2e",
        ]
    ),
    st.text(max_size=3),
)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
quads = st.lists(st.integers(0, 300).map(str), min_size=1, max_size=5).map(".".join)
v6 = st.one_of(st.ip_addresses(v=6).map(str), st.text("0123456789abcdef:.%[]", max_size=20), names)
zones = st.sampled_from(["", "%eth0", "%25eth0", "%", "%1"])
brackets = st.sampled_from([("[", "]"), ("", ""), ("[", ""), ("", "]"), ("[[", "]]"), ("[]", "[]")])
hosts = st.one_of(
    names,
    quads,
    st.ip_addresses().map(str),
    st.builds(lambda ends, host, zone: f"{ends[0]}{host}{zone}{ends[1]}", brackets, v6, zones),
)
ports = st.one_of(
    st.just(""), st.just(":"), st.integers(-1, 70000).map(":{}".format), st.text("0123456789:+ x", max_size=6)
)
userinfos = st.sampled_from(["", "", "", "@", "a@", "a:b@", "a:b@c@", ":@"])
schemes = st.sampled_from(
    ["https://", "https://", "HTTPS://", "http://", "https:", "https:/", "//", "ftp://", "https:\\\\"]
)
tails = st.one_of(
    st.sampled_from(["", "/", "?", "#", "/a?b#c", "/%", "/..", "?a=b?c", "\\", "/[", "/\x00"]),
    st.text(max_size=8),
)
urls = st.tuples(schemes, userinfos, hosts, st.sampled_from(["", "", ".", ".."]), ports, tails).map("".join)
policies = st.builds(
    CallbackPolicy,
    allow_http=st.booleans(),
    allow_private=st.sampled_from(
        [(), (ip_network("10.0.0.0/8"),), LAPTOP.allow_private, (ip_network("::/0"),)]
    ),
    ports=st.sampled_from([frozenset({443}), frozenset({443, 8443})]),
)


@settings(steady, max_examples=600)
@given(st.one_of(urls, st.text(max_size=40)), policies)
@example("https://[", CLOSED)
@example("https://[::1]]:443/", CLOSED)
def test_any_text_is_accepted_in_a_stable_form_or_refused(text: str, policy: CallbackPolicy) -> None:
    try:
        accepted = parse_callback_url(text, policy=policy)
    except CallbackUrlRefused:
        return
    assert parse_callback_url(accepted.normalised, policy=policy) == accepted
    assert accepted.address is None or may_dial(accepted.address, policy)
    assert re.fullmatch(r"[\x21-\x7e]{1,2048}", accepted.normalised)
    other = urlsplit(accepted.normalised)
    assert (other.scheme, other.hostname, other.username) == (accepted.scheme, accepted.host, None)
    assert (other.port or {"http": 80, "https": 443}[accepted.scheme]) == accepted.port


good_labels = st.from_regex(r"[a-z]([a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
good_names = st.builds(
    lambda parts, last: ".".join([*parts, last]),
    st.lists(good_labels, min_size=1, max_size=4),
    st.sampled_from(["com", "example", "de", "xn--p1ai"]),
)


@steady
@given(good_names, st.from_regex(r"(/[A-Za-z0-9._~%-]{0,20}){1,4}(\?[a-z=&]{0,20})?", fullmatch=True))
def test_every_plain_https_url_is_accepted_as_it_is(name: str, target: str) -> None:
    accepted = parse_callback_url(f"https://{name}{target}", policy=CLOSED)
    assert (accepted.normalised, accepted.host, accepted.target) == (f"https://{name}{target}", name, target)
