"""Starts Claude Code under Landlock, or only as another user: the launcher of the tiers `landlock` and `uid`, for
hosts that refuse namespaces.

A program of its own (standard library only, and of that what is quick to import: it is started for each run). It is
given the path of a private file with all that it needs to know, and the arguments of the CLI. It stays as the parent
of everything that the run starts, and of the service's user: a daemon that has left its parent becomes its child, so
it can be found and is killed at the end, whatever it did to its environment.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import signal
import struct
import sys

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes longer than to confine
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, PATH_BENEATH, NET_PORT = 1, 1, 2
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FIRST_RIGHTS = (1 << 13) - 1
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    with open(sys.argv[1], "rb") as file:  # noqa: PTH123 - see TYPE_CHECKING
        order = marshal.load(file)  # noqa: S302 # nosec B302 - only the service can write it
    control(PR_SET_PDEATHSIG, signal.SIGKILL)
    control(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        confine(order)
        if os.getppid() != supervisor:
            os._exit(1)  # it died before we had asked to die with it
        os.execve(order["cli"], [order["cli"], *sys.argv[2:]], order["environment"])  # noqa: S606 - no shell is wanted
    os._exit(watch(child))


def watch(child: int) -> int:
    """Until the CLI has ended and all that it left behind is dead; returns the exit status of the CLI."""

    def forward(number: int, _: FrameType | None) -> None:
        if child:
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    for descriptor in (0, 1):
        os.close(descriptor)  # else the service would not see the CLI close them
    ended, result = os.wait()
    while ended != child:
        ended, result = os.wait()
    child = 0
    end_children()
    status = os.waitstatus_to_exitcode(result)
    return 128 - status if status < 0 else status


def end_children() -> None:
    """Until none is left. The children of a child that has ended become ours. No pause: what forks without end
    must not get ahead."""
    try:
        while True:
            for number in children():
                os.kill(number, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    except ChildProcessError:
        return


def children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123 - see TYPE_CHECKING
        return [int(number) for number in file.read().split()]


def confine(order: dict[str, Any]) -> None:
    """Raises OSError, and then nothing must be started."""
    for name, value in order["limits"].items():
        limit(getattr(resource, f"RLIMIT_{name}"), value)
    # By the rights that we still have: the new user need not be able to reach all of its places by their paths.
    ruleset = rules_of(**order["rules"]) if order["rules"] is not None else None
    drop_capabilities(order["owner"])
    control(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user cancels an earlier one
    control(PR_SET_NO_NEW_PRIVS, 1)
    if ruleset is not None:
        check(_libc.syscall(RESTRICT_SELF, ruleset, 0))
        os.close(ruleset)
    if order["seccomp"] is not None:
        load_filter(order["seccomp"])


def load_filter(program: bytes) -> None:
    filters = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(filters))
    control(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described)


def limit(name: int, value: int) -> None:
    hard = resource.getrlimit(name)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value))


def drop_capabilities(owner: list[int] | None) -> None:
    """All, so that root is a user like others here; only root may drop them from the set it can regain. Before
    that, become `owner`, if there is one."""
    if os.geteuid() == 0:
        for number in range(64):
            if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
                break  # the kernel's last capability is passed, or we are not allowed to, and have few anyway
    if owner is not None:
        uid, gid = owner
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    check(_libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)))


def rules_of(read: Iterable[str], write: Iterable[str], devices: Iterable[str], ports: Iterable[int]) -> int:
    """The descriptor of a set of rules."""
    version = check(_libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG))
    rights, attributes = handled(version)
    ruleset = check(_libc.syscall(CREATE_RULESET, attributes, len(attributes), 0))
    for path in read:
        allow(ruleset, path, (EXECUTE | READ_FILE | READ_DIR) & rights)
    for path in write:
        allow(ruleset, path, rights & ~(MAKE_CHAR | MAKE_BLOCK))
    for path in devices:
        allow(ruleset, path, (READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV) & rights)
    for port in ports if version >= 4 else ():
        check(_libc.syscall(ADD_RULE, ruleset, NET_PORT, struct.pack("=QQ", CONNECT_TCP, port), 0))
    return ruleset


def handled(version: int) -> tuple[int, bytes]:
    """The rights over files, and struct landlock_ruleset_attr, as far as this kernel knows them."""
    rights = FIRST_RIGHTS
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        rights |= right if version >= since else 0
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", BIND_TCP | CONNECT_TCP)
    if version >= 6:
        attributes += struct.pack("=Q", ABSTRACT_SOCKETS | SIGNALS)
    return rights, attributes


def allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what is not there needs no rule
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - see TYPE_CHECKING
            rights &= OF_A_FILE
        check(_libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0))
    finally:
        os.close(descriptor)


def control(option: int, value: int, argument: bytes | int = 0) -> None:
    check(_libc.prctl(option, value, argument, 0, 0))


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    main()
