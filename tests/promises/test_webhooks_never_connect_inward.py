"""No webhook opens a connection to an address that is not public, whatever URL, name or DNS answer leads there.

Nothing is assumed about the sender: it runs in a network namespace in which every address exists and listens
(private_network.py), so a connection inward would succeed, and would be seen.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

WORLD = Path(__file__).with_name("private_network.py")
UNSHARE = ["unshare", "--net", "--mount"]
AS_ROOT_OF_ITS_OWN = ["--user", "--map-root-user"]

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800::1"
INWARD = [
    "0.0.0.0",
    "10.0.0.5",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
]
INWARD_6 = [
    "::",
    "::1",
    "::10.0.0.5",
    "::ffff:10.0.0.5",
    "::ffff:127.0.0.1",
    "::ffff:0:10.0.0.5",
    "64:ff9b::10.0.0.5",
    "64:ff9b:1::10.0.0.5",
    "2001::1",
    "2002:a00:5::1",
    "2002:7f00:1::1",
    "fc00::1",
    "fd00::5",
    "fd00:ec2::254",
    "fe80::5",
    "fec0::1",
    "ff02::1",
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """`expected`: what each try ends in. `reached`: the addresses that got a connection, and no others did."""

    what: str
    url: str
    expected: tuple[int | str, ...]
    reached: tuple[str, ...] = ()
    opened: int = 0
    answers: Sequence[Sequence[str] | None] = ()
    private: tuple[str, ...] = ()
    http: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.url}"


def denied(number: int, answers: Sequence[str], what: str) -> Case:
    return Case(
        what=what,
        url=f"https://n{number}.denied.example/",
        expected=("address_denied",),
        answers=[answers],
    )


def delivered(what: str, url: str, *reached: str, **more: Any) -> Case:
    return Case(what=what, url=url, expected=(200,), reached=reached, opened=1, **more)


def literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address


ALL_INWARD = INWARD + INWARD_6
DENIED = [
    *(denied(n, [address], f"only {address}") for n, address in enumerate(ALL_INWARD)),
    *(denied(100 + n, [PUBLIC, address], f"public and {address}") for n, address in enumerate(ALL_INWARD)),
    *(denied(200 + n, [address, PUBLIC_6], f"{address} before public") for n, address in enumerate(INWARD)),
    denied(300, [PUBLIC, PUBLIC_6, *[f"93.184.216.{n}" for n in range(35, 45)], "10.0.0.5"], "last of many"),
    denied(301, ["=n0.denied.example"], "a CNAME to 0.0.0.0"),
    denied(302, ["=alias.example"], "a CNAME of a CNAME to the metadata service"),
    denied(303, ["=mixture.example"], "a CNAME to a mix"),
]
SPELLED = [
    *(Case(what="literal", url=f"https://{literal(a)}/", expected=("address_denied",)) for a in ALL_INWARD),
    *(
        Case(what="spelling", url=url, expected=("url_refused",))
        for url in (
            "https://0x7f000001/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://127.0.0.1./",
            "https://10.0.0.5%2f@good.receivers.example/",
            "https://good.receivers.example@10.0.0.5/",
            "https://good.receivers.example\\@10.0.0.5/",
            "https://[fe80::5%25lo]/",
            "https://[fe80::5%lo]/",
            "https://[::1%1]/",
            "https://localhost/",
            "https://localhost.localdomain/",
            "https://\uff11\uff12\uff17.0.0.1/",
            "https://metadata.google.internal/",
            "http://good.receivers.example/",
            "https://good.receivers.example:22/",
        )
    ),
]
GOOD = [
    delivered("public", "https://good.receivers.example/hook", PUBLIC, answers=[[PUBLIC]]),
    delivered("public IPv6", "https://six.receivers.example/", PUBLIC_6, answers=[[PUBLIC_6]]),
    delivered("a public literal", f"https://{PUBLIC}:8443/", PUBLIC),
    delivered("a public IPv6 literal", f"https://[{PUBLIC_6}]/", PUBLIC_6),
    delivered("its mapped form", f"https://[::ffff:{PUBLIC}]/", PUBLIC),
    delivered("a CNAME", "https://cname.receivers.example/", PUBLIC, answers=[["=good.receivers.example"]]),
    delivered(
        "http where it is allowed", "http://plain.receivers.example/", PUBLIC, http=True, answers=[[PUBLIC]]
    ),
]
STORIES = [
    Case(
        what="rebinding from public to loopback and back",
        url="https://rebound.receivers.example/",
        expected=(200, "address_denied", 200),
        reached=(PUBLIC,),
        opened=2,
        answers=[[PUBLIC], ["127.0.0.1"], [PUBLIC]],
    ),
    Case(
        what="rebinding to a mix",
        url="https://mixed.receivers.example/",
        expected=(200, "address_denied"),
        reached=(PUBLIC,),
        opened=1,
        answers=[[PUBLIC], [PUBLIC, "::1"]],
    ),
    Case(what="hanging", url="https://hangs.receivers.example/", expected=("dns",), answers=[None]),
    Case(what="unknown", url="https://unknown.receivers.example/", expected=("dns",), answers=[[]]),
    *(
        Case(
            what=f"a redirect to {place}",
            url=f"https://good.receivers.example/to/{place}",
            expected=(307,),
            reached=(PUBLIC,),
            opened=1,
        )
        for place in ("http://169.254.169.254/", "https://10.0.0.5/", "https://[::1]/", "//127.0.0.1/")
    ),
]
OPENED = [
    delivered(
        "a network that the operator opened",
        "https://inner.receivers.example/",
        "10.0.0.5",
        private=("10.0.0.0/8",),
        answers=[["10.0.0.5"]],
    ),
    *(
        Case(
            what=f"{address} although everything is opened",
            url=f"https://{literal(address)}/",
            expected=("address_denied",),
            private=("0.0.0.0/0", "::/0"),
        )
        for address in ("127.0.0.1", "169.254.169.254", "::1", "fe80::5", "64:ff9b::7f00:1", "2002:7f00:1::1")
    ),
    Case(
        what="another network than the one opened",
        url="https://other.receivers.example/",
        expected=("address_denied",),
        private=("10.0.0.0/8",),
        answers=[["192.168.1.1"]],
    ),
]
CASES = [*DENIED, *SPELLED, *GOOD, *STORIES, *OPENED]


@dataclass(frozen=True)
class World:
    """What each case came to, by its name, and every connection that a canary got."""

    results: Mapping[str, Mapping[str, Any]]
    log: Sequence[tuple[str, int]]


def host_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def private_network() -> list[str]:
    """The command that makes one; skips where this machine lets nobody."""
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: run make dev")
    for command in ([*UNSHARE, *AS_ROOT_OF_ITS_OWN], UNSHARE):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("this machine refuses network namespaces")


@pytest.fixture(scope="module")
def world() -> World:
    """All cases, tried one after the other."""
    plan = {
        "zone": {
            "alias.example": [["=meta.example"]],
            "mixture.example": [[PUBLIC, "10.0.0.5"]],
            "meta.example": [["169.254.169.254"]],
            **{host_of(case.url): case.answers for case in CASES if case.answers},
        },
        "certified": ["*.receivers.example", "*.denied.example", PUBLIC, PUBLIC_6, *INWARD],
        "cases": [asdict(case) | {"times": len(case.expected)} for case in CASES],
    }
    # A proxy named in the environment would be one more way inward.
    environment = os.environ | {"HTTPS_PROXY": "http://10.0.0.5:80", "ALL_PROXY": "http://127.0.0.1:80"}
    done = subprocess.run(
        [*private_network(), sys.executable, str(WORLD)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    results = dict(zip(map(str, CASES), told["results"], strict=True))
    return World(results, [(address, port) for address, port in told["log"]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_only_what_is_public_is_ever_connected_to(world: World, case: Case) -> None:
    assert world.results[str(case)] == {
        "receipts": list(case.expected),
        "opened": case.opened,
        "reached": list(case.reached),
    }


def test_no_canary_inside_ever_saw_a_connection(world: World) -> None:
    opened_by_the_operator = "10.0.0.5"
    assert {address for address, _ in world.log} == {PUBLIC, PUBLIC_6, opened_by_the_operator}


def test_no_case_hides_another() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
