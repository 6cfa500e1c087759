"""Hosts as the egress proxy reads them, and the list of allowed ones."""

import pytest

from overnight.domain.egress import allowed_host, destination


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("PyPI.org", "pypi.org"),
        ("pypi.org.", "pypi.org"),
        ("*.Example.com", "*.example.com"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
    ],
)
def test_an_entry_is_kept_as_it_is_compared(entry: str, kept: str) -> None:
    assert allowed_host(entry) == kept


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "a.*",
        "*.192.0.2.1",
        "https://a.test",
        "a.test:443",
        "a b",
        "127.1",
        "[::1",
        "2001:db8::1",
    ],
)
def test_what_is_no_host_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        allowed_host(entry)


@pytest.mark.parametrize("port", ["", "0", "00080", "65536", "-1", "8e1", "٣"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(ValueError, match="port"):
        destination("a.test", port)
