"""The system call filter of a run, as a classic BPF program that bubblewrap and `confine.py` load as it is.

What is refused is what reaches past a sandbox or widens the kernel that an agent can attack (facts: security
3.1). An architecture that the filter was not written for is not waved through: the process is killed.
"""

import platform
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from errno import EAFNOSUPPORT, EBUSY, ENOSYS, EPERM

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_ALLOW, _KILL, _ERRNO, _ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_X32 = 0x40000000
"""Set in the number of a call by the x32 ABI: the same calls, under numbers that no list here names."""

_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME together."""

_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _DATAGRAM, _TYPE_BITS = 1, 2, 0xF
_TCP, _UDP = 6, 17
_FAST_OPEN = 0x20000000
_NEW_LISTENER = 1 << 3
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # both type into the terminal of somebody else


@dataclass(frozen=True, slots=True)
class Machine:
    """`forks`: fork and vfork, where they are calls of their own. `ipc`: all of System V's, and those that open a
    POSIX message queue by its name."""

    audit: int
    calls: Mapping[str, int]
    forks: tuple[int, ...]
    refused: tuple[int, ...]
    ipc: tuple[int, ...]


_SINCE_5_1 = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}
"""From here on the numbers are the same on every architecture."""

_REFUSED_X86_64 = {
    "ptrace": 101,
    "syslog": 103,
    "uselib": 134,
    "vhangup": 153,
    "modify_ldt": 154,
    "pivot_root": 155,
    "_sysctl": 156,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "create_module": 174,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "nfsservctl": 180,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
}
_REFUSED_AARCH64 = {
    "lookup_dcookie": 18,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "nfsservctl": 42,
    "chroot": 51,
    "vhangup": 58,
    "quotactl": 60,
    "acct": 89,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "clock_settime": 112,
    "syslog": 116,
    "ptrace": 117,
    "reboot": 142,
    "sethostname": 161,
    "setdomainname": 162,
    "settimeofday": 170,
    "adjtimex": 171,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "swapon": 224,
    "swapoff": 225,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "clock_adjtime": 266,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "userfaultfd": 282,
    "kexec_file_load": 294,
}
_IPC_X86_64 = {
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "semget": 64,
    "semop": 65,
    "semctl": 66,
    "shmdt": 67,
    "msgget": 68,
    "msgsnd": 69,
    "msgrcv": 70,
    "msgctl": 71,
    "semtimedop": 220,
    "mq_open": 240,
    "mq_unlink": 241,
}
_IPC_AARCH64 = {
    "mq_open": 180,
    "mq_unlink": 181,
    "msgget": 186,
    "msgctl": 187,
    "msgrcv": 188,
    "msgsnd": 189,
    "semget": 190,
    "semctl": 191,
    "semtimedop": 192,
    "semop": 193,
    "shmget": 194,
    "shmctl": 195,
    "shmat": 196,
    "shmdt": 197,
}
_SENDS_X86_64 = {"sendto": 44, "sendmsg": 46, "sendmmsg": 307}
_SENDS_AARCH64 = {"sendto": 206, "sendmsg": 211, "sendmmsg": 269}
_FLAGS_ARGUMENT = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}

MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(
        audit=0xC000003E,
        calls={
            "clone": 56,
            "clone3": 435,
            "socket": 41,
            "ioctl": 16,
            "seccomp": 317,
            "prlimit64": 302,
            **_SENDS_X86_64,
        },
        forks=(57, 58),
        refused=(*_REFUSED_X86_64.values(), *_SINCE_5_1.values()),
        ipc=tuple(_IPC_X86_64.values()),
    ),
    "aarch64": Machine(
        audit=0xC00000B7,
        calls={
            "clone": 220,
            "clone3": 435,
            "socket": 198,
            "ioctl": 29,
            "seccomp": 277,
            "prlimit64": 261,
            **_SENDS_AARCH64,
        },
        forks=(),
        refused=(*_REFUSED_AARCH64.values(), *_SINCE_5_1.values()),
        ipc=tuple(_IPC_AARCH64.values()),
    ),
}


class UnknownMachine(Exception):
    """The filter has no numbers of system calls for this architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """`call` is the number of seccomp(2). `held` is `plain`, but each new process and thread waits for the answer
    of whoever has the listener that comes with it; when that is closed there are no new ones, for good."""

    call: int
    plain: bytes
    held: bytes


def filters(machine: str | None = None, *, datagrams: bool, ipc: bool) -> Filter:
    """For a supervisor, which can hold a run by `held`. Raises UnknownMachine."""
    return Filter(
        call=_known(machine).calls["seccomp"],
        plain=program(machine, datagrams=datagrams, ipc=ipc),
        held=program(machine, datagrams=datagrams, ipc=ipc, held=True),
    )


def program(machine: str | None = None, *, datagrams: bool, ipc: bool = True, held: bool = False) -> bytes:
    """`datagrams`: whether UDP may be used, as it may where no network but a private one is there. `ipc`: whether
    System V's shared memory, semaphores and queues may be, as they may where they are the run's own or those of its
    user. `held`: see Filter.

    Raises UnknownMachine.
    """
    known = _known(machine)
    parts = [
        *_architecture(known),
        *(step for number in known.refused for step in _refuse_if(number)),
        # As of a kernel that was built without them.
        *(step for number in (() if ipc else known.ipc) for step in _when(number, [_fail(ENOSYS)])),
        *_processes(known, _step(_RETURN, _ASK) if held else _allow()),
        # The listener of a later filter would be asked in the place of ours, once ours is closed.
        *(_when(known.calls["seccomp"], [_argument(1), *_no_listener(), _allow()]) if held else ()),
        *_when(
            known.calls["ioctl"], [_argument(1), *_refuse_if(_TIOCSTI), *_refuse_if(_TIOCLINUX), _allow()]
        ),
        *_when(known.calls["socket"], _sockets(datagrams)),
        # Limits of another process, say no time of the processor: a signal by another name, that Landlock does not see.
        *_when(known.calls["prlimit64"], [_argument(0), *_on_equal(0, [_allow()]), _fail(EPERM)]),
        # A fast open connects without a call of connect, past Landlock's rule of ports.
        *(step for send, index in _FLAGS_ARGUMENT.items() for step in _fast_open(known.calls[send], index)),
        _allow(),
    ]
    return b"".join(parts)


def _known(machine: str | None) -> Machine:
    name = machine or platform.machine()
    if name not in MACHINES:
        raise UnknownMachine(f"there is no system call filter for {name}")
    return MACHINES[name]


def _processes(known: Machine, answer: bytes) -> list[bytes]:
    """Threads are made by the same call. The flags of clone3 lie in memory, where a filter cannot look: without
    it libc takes clone."""
    return [
        *_when(known.calls["clone3"], [_fail(ENOSYS)]),
        *_when(known.calls["clone"], [_argument(0), *_refuse_bits(_NAMESPACES), answer]),
        *(step for number in known.forks for step in _when(number, [answer])),
    ]


def _no_listener() -> list[bytes]:
    """As the kernel says it of a second one."""
    return [_step(_IF_ANY_BIT, _NEW_LISTENER, 0, 1), _fail(EBUSY)]


def _architecture(machine: Machine) -> list[bytes]:
    steps = [
        _load(_ARCHITECTURE),
        _step(_IF_EQUAL, machine.audit, 1, 0),
        _step(_RETURN, _KILL),
        _load(_NUMBER),
    ]
    if machine.audit == MACHINES["x86_64"].audit:
        steps += [_step(_IF_AT_LEAST, _X32, 0, 1), _fail(ENOSYS)]
    return steps


def _sockets(datagrams: bool) -> list[bytes]:
    """Unix sockets, TCP, and perhaps UDP. The protocol is looked at too: MPTCP is a stream that Landlock's rule
    of ports does not see, and a datagram of ICMP is a raw socket by another name."""
    kinds = [(_STREAM, _TCP)] + ([(_DATAGRAM, _UDP)] if datagrams else [])
    return [
        _argument(0),
        _step(_IF_EQUAL, _UNIX, 0, 1),
        _allow(),
        _step(_IF_EQUAL, _INET, 2, 0),
        _step(_IF_EQUAL, _INET6, 1, 0),
        _fail(EAFNOSUPPORT),
        *(step for kind, protocol in kinds for step in _allow_kind(kind, protocol)),
        _fail(EPERM),
    ]


def _allow_kind(kind: int, protocol: int) -> list[bytes]:
    protocols = [
        _argument(2),
        *_on_equal(0, [_allow()]),
        *_on_equal(protocol, [_allow()]),
        _fail(EPERM),
    ]
    return [_argument(1), _step(_AND, _TYPE_BITS), *_on_equal(kind, protocols)]


def _fast_open(number: int, index: int) -> list[bytes]:
    return _when(number, [_argument(index), *_refuse_bits(_FAST_OPEN), _allow()])


def _when(number: int, steps: list[bytes]) -> list[bytes]:
    """`steps` must end in a return: what comes after them expects the number of the call to be loaded."""
    return _on_equal(number, steps)


def _on_equal(value: int, steps: list[bytes]) -> list[bytes]:
    return [_step(_IF_EQUAL, value, 0, len(steps)), *steps]


def _refuse_if(value: int) -> Iterable[bytes]:
    return _on_equal(value, [_fail(EPERM)])


def _refuse_bits(bits: int) -> list[bytes]:
    return [_step(_IF_ANY_BIT, bits, 0, 1), _fail(EPERM)]


def _argument(index: int) -> bytes:
    """Its low 32 bits, which come first on both (little-endian) machines; the kernel reads an int there too."""
    return _load(_ARGUMENTS + 8 * index)


def _load(offset: int) -> bytes:
    return _step(_LOAD, offset)


def _allow() -> bytes:
    return _step(_RETURN, _ALLOW)


def _fail(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One struct sock_filter."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
