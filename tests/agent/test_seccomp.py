"""The filter, as an interpreter of its program reads it, on both architectures."""

import struct
from errno import EAFNOSUPPORT, EBUSY, ENOSYS, EPERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.agent.seccomp import MACHINES, UnknownMachine, filters, program

ALLOW, KILL, ERRNO, ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000


def verdict(text: bytes, machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the kernel would do: a classic BPF interpreter for the few instructions that are used."""
    arch = MACHINES[machine].audit if audit is None else audit
    data = struct.pack("=IIQ6Q", number, arch, 0, *(arguments + (0,) * (6 - len(arguments))))
    steps = list(struct.iter_unpack("=HBBI", text))
    at, value = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            value &= operand
        elif code == 0x06:
            return int(operand)
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += if_true if holds else if_false


BOTH = pytest.mark.parametrize("machine", sorted(MACHINES))


@BOTH
def test_what_a_run_must_not_call_is_refused(machine: str) -> None:
    text = program(machine, datagrams=True)
    for number in MACHINES[machine].refused:
        assert verdict(text, machine, number) == ERRNO | EPERM


@BOTH
def test_another_architecture_is_killed(machine: str) -> None:
    assert verdict(program(machine, datagrams=True), machine, 0, audit=0x40000003) == KILL


def test_the_numbers_of_the_x32_abi_are_unknown() -> None:
    assert verdict(program("x86_64", datagrams=True), "x86_64", 0x40000000 + 101) == ERRNO | ENOSYS


@BOTH
def test_threads_and_forks_yes_namespaces_no(machine: str) -> None:
    text, calls = program(machine, datagrams=True), MACHINES[machine].calls
    assert verdict(text, machine, calls["clone"], 0x3D0F00) == ALLOW  # a thread, as glibc starts one
    assert verdict(text, machine, calls["clone"], 0x11) == ALLOW  # fork
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert verdict(text, machine, calls["clone"], flag | 0x11) == ERRNO | EPERM
    assert verdict(text, machine, calls["clone3"]) == ERRNO | ENOSYS


@BOTH
def test_a_held_run_asks_for_each_process_and_thread(machine: str) -> None:
    held, known = filters(machine, datagrams=False, ipc=True).held, MACHINES[machine]
    for number in known.forks:
        assert verdict(held, machine, number) == ASK
    assert verdict(held, machine, known.calls["clone"], 0x3D0F00) == ASK
    assert verdict(held, machine, known.calls["clone"], 0x11) == ASK
    assert verdict(held, machine, known.calls["clone"], 0x10000011) == ERRNO | EPERM
    assert verdict(held, machine, known.calls["clone3"]) == ERRNO | ENOSYS


@BOTH
def test_a_held_run_cannot_answer_itself(machine: str) -> None:
    known = filters(machine, datagrams=False, ipc=True)
    assert known.call == MACHINES[machine].calls["seccomp"]
    for flags in (0x08, 0x28, 0x19):
        assert verdict(known.held, machine, known.call, 1, flags) == ERRNO | EBUSY
    assert verdict(known.held, machine, known.call, 1, 0x01) == ALLOW


@BOTH
@given(number=st.integers(0, 600), first=st.integers(0, 2**32 - 1), second=st.integers(0, 2**32 - 1))
def test_a_held_run_is_refused_what_others_are(machine: str, number: int, first: int, second: int) -> None:
    both = filters(machine, datagrams=False, ipc=True)
    plain, held = (verdict(text, machine, number, first, second) for text in (both.plain, both.held))
    assert plain == held or (plain, held) in {(ALLOW, ASK), (ALLOW, ERRNO | EBUSY)}


@BOTH
def test_memory_and_queues_are_not_shared_with_others_of_the_same_user(machine: str) -> None:
    shared, own = (program(machine, datagrams=False, ipc=ipc) for ipc in (False, True))
    for number in MACHINES[machine].ipc:
        assert verdict(shared, machine, number) == ERRNO | ENOSYS
        assert verdict(own, machine, number) == ALLOW


@BOTH
@pytest.mark.parametrize(
    ("arguments", "private", "shared"),
    [
        ((1, 2, 0), ALLOW, ALLOW),  # unix
        ((2, 1 | 0o2000000, 0), ALLOW, ALLOW),  # TCP, close on exec
        ((10, 1, 6), ALLOW, ALLOW),  # TCP over IPv6, by name
        ((2, 1, 262), ERRNO | EPERM, ERRNO | EPERM),  # MPTCP
        ((2, 2, 0), ALLOW, ERRNO | EPERM),  # UDP
        ((2, 2, 1), ERRNO | EPERM, ERRNO | EPERM),  # ICMP
        ((2, 3, 1), ERRNO | EPERM, ERRNO | EPERM),  # raw
        ((16, 3, 0), ERRNO | EAFNOSUPPORT, ERRNO | EAFNOSUPPORT),  # netlink
        ((17, 3, 0), ERRNO | EAFNOSUPPORT, ERRNO | EAFNOSUPPORT),  # packet
        ((40, 1, 0), ERRNO | EAFNOSUPPORT, ERRNO | EAFNOSUPPORT),  # vsock
    ],
)
def test_sockets(machine: str, arguments: tuple[int, ...], private: int, shared: int) -> None:
    number = MACHINES[machine].calls["socket"]
    assert verdict(program(machine, datagrams=True), machine, number, *arguments) == private
    assert verdict(program(machine, datagrams=False), machine, number, *arguments) == shared


@BOTH
def test_a_fast_open_does_not_connect_past_the_rule_of_ports(machine: str) -> None:
    text, calls = program(machine, datagrams=False), MACHINES[machine].calls
    assert verdict(text, machine, calls["sendto"], 3, 0, 0, 0x20000000) == ERRNO | EPERM
    assert verdict(text, machine, calls["sendmsg"], 3, 0, 0x20000000) == ERRNO | EPERM
    assert verdict(text, machine, calls["sendto"], 3, 0, 0, 0x4000) == ALLOW


@given(number=st.integers(0, 2**30 - 1), first=st.integers(0, 2**64 - 1), second=st.integers(0, 2**64 - 1))
def test_every_call_gets_one_of_three_answers(number: int, first: int, second: int) -> None:
    answer = verdict(program("x86_64", datagrams=False), "x86_64", number, first, second)
    assert answer == ALLOW or answer & 0xFFFF0000 == ERRNO


def test_an_unknown_machine_is_not_guessed_at() -> None:
    with pytest.raises(UnknownMachine, match="mips"):
        program("mips", datagrams=True)
