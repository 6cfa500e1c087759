"""The head of a proxy request, by a grammar that is near enough to real ones to get far, and by noise."""

import contextlib
import re

from hypothesis import given
from hypothesis import strategies as st

from overnight.agent.proxy_request import Malformed, ProxyRequest, parse_head

HOSTS = st.sampled_from(
    [
        "a.test",
        "A_b.Test.",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "[::1]",
        "[::ffff:1.2.3.4]",
        "[",
        "[]",
        "[::1%1]",
        "a..b",
        "é",
    ]
)
PORTS = st.sampled_from(["", ":", ":80", ":0", ":65536", ":1e3", ":443:1", ":٣"])
PATHS = st.sampled_from(["", "/", "/a?b#c", "?q", "//x", "/%0d%0aX:1", "/\x7f", "\\x"])
SCHEMES = st.sampled_from(["", "http://", "HTTP://", "https://", "http:", "http://u:p@", "ftp://"])
METHODS = st.sampled_from(["CONNECT", "GET", "POST", "get", "G E T", "", "\x00"])
VERSIONS = st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2", "http/1.1", ""])
HEADERS = st.lists(
    st.sampled_from(
        [
            "Host: a.test",
            "Content-Length: 3",
            "content-length:3 ",
            "Content-Length: 3, 3",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: Chunked, x",
            "Connection: content-length, host",
            "X:\ty ",
            " folded",
            "no colon",
            ": empty",
            "X: \x0b",
            "X: a\nContent-Length: 9",
            "Proxy-Authorization: x",
        ]
    ),
    max_size=5,
)


def line(method: str, scheme: str, host: str, port: str, path: str, version: str) -> str:
    return f"{method} {scheme}{host}{port}{path} {version}"


def passed(head: bytes) -> ProxyRequest | None:
    with contextlib.suppress(Malformed):
        return parse_head(head)
    return None


@given(st.builds(line, METHODS, SCHEMES, HOSTS, PORTS, PATHS, VERSIONS), HEADERS)
def test_a_request_is_either_refused_or_written_in_one_clear_way(first: str, headers: list[str]) -> None:
    request = passed("\r\n".join([first, *headers, "", ""]).encode())
    if request is None or request.is_tunnel:
        return
    head = request.head.decode()
    assert re.fullmatch(r"\S+ /\S* HTTP/1\.1\r\nHost: \S+\r\n([^\r\n\0]+\r\n)*\r\n", head)
    framing = re.findall(r"(?mi)^(?:content-length|transfer-encoding):", head)
    assert len(framing) <= 1
    assert len(re.findall(r"(?mi)^host:", head)) == 1


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    request = passed(noise + b"\r\n\r\n")
    assert request is None or request.to.port > 0
