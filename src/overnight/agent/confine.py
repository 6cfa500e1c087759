"""Starts Claude Code under Landlock, or only as another user: the launcher of the tiers `landlock` and `uid`, for
hosts that refuse namespaces.

A program of its own, started for each run, so it takes of the standard library only what is quick to import, and is
itself imported (`supervised.py`), since Python keeps what it imports compiled. It is given the path of a private file
with all that it needs to know, and the arguments of the CLI. It stays as the parent
of everything that the run starts, and of the service's user: a daemon that has left its parent becomes its child, so
it can be found and is killed at the end, whatever it did to its environment.

Every new process and thread of the run waits for its answer (seccomp user notification). At the end it closes the
listener, and the kernel refuses all further ones: what is left to kill can only become less.
"""

import _socket
import ctypes
import fcntl
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False  # as type checkers know it; to import `typing` takes longer than to confine
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from typing import Any, NoReturn
else:
    import _signal as signal  # the same without enums, which take as long to import as all else here

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_MODE_FILTER, SECCOMP_SET_MODE_FILTER = 2, 1
NEW_LISTENER, WAIT_KILLABLE = 1 << 3, 1 << 5
RECEIVE, SEND, SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
NOTHING_ASKED = bytes(80)  # struct seccomp_notif, which begins with the 8 bytes of the id
GO_ON = struct.pack("=qiI", 0, 0, 1)  # struct seccomp_notif_resp after its id
WAKE_UP_AT_ONCE = 1
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


TO_END = signal.SIGUSR1
"""To the supervisor: end the run. The kernel sends it when the service dies."""


def main() -> "NoReturn":
    with open(sys.argv[1], "rb") as file:  # noqa: PTH123 - see TYPE_CHECKING
        order = marshal.load(file)  # noqa: S302 # nosec B302 - only the service can write it
    control(PR_SET_PDEATHSIG, TO_END)
    control(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    ours, theirs = _socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        send_descriptor(theirs, confine(order))
        theirs.close()
        if os.getppid() != supervisor:
            os._exit(1)  # it died before we had asked to die with it
        os.execve(order["cli"], [order["cli"], *sys.argv[2:]], order["environment"])  # noqa: S606 - no shell is wanted
    theirs.close()
    listener = receive_descriptor(ours)
    ours.close()
    if listener is not None:
        open(order["held"], "wb").close()  # noqa: PTH123 - see TYPE_CHECKING
    os._exit(Run(child, listener).supervise(order["end"]))


class Run:
    """The CLI and all that it starts. `listener` is asked for each new process, if this kernel has that."""

    def __init__(self, child: int, listener: int | None) -> None:
        self.child, self.listener = child, listener
        self.result: int | None = None

    def supervise(self, end: str) -> int:
        """Until the CLI has ended, or something was written to the FIFO `end`, and all that the run started is
        dead; returns the exit status of the CLI."""
        signals = noted((signal.SIGCHLD, TO_END, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        ends = os.open(end, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        for descriptor in (0, 1):
            os.close(descriptor)  # else the service would not see the CLI close them
        self.attend(signals, ends)
        if self.listener is not None:
            os.close(self.listener)
        self.kill()
        status = os.waitstatus_to_exitcode(self.result or 0)
        return 128 - status if status < 0 else status

    def attend(self, signals: int, ends: int) -> None:
        """As long as the run may go on."""
        poller = select.poll()
        for descriptor in (signals, ends) if self.listener is None else (signals, ends, self.listener):
            poller.register(descriptor, select.POLLIN)
        self.reap()  # what ended before signals were noted
        while self.result is None:
            for descriptor, event in poller.poll():
                if descriptor == ends or (descriptor == signals and not self.heed(os.read(signals, 512))):
                    return
                if descriptor == self.listener and event & select.POLLIN:
                    self.let_one_start()
                elif descriptor == self.listener:
                    poller.unregister(descriptor)  # nobody is left who could ask

    def heed(self, numbers: bytes) -> bool:
        """False if the run is to end."""
        if TO_END in numbers:
            return False
        if signal.SIGCHLD in numbers:
            self.reap()
        for number in numbers:
            if number != signal.SIGCHLD and self.result is None:
                os.kill(self.child, number)
        return True

    def let_one_start(self) -> None:
        """The filter has judged its flags, which are in registers that nobody else can change."""
        assert self.listener is not None
        try:
            asked = fcntl.ioctl(self.listener, RECEIVE, NOTHING_ASKED)
            fcntl.ioctl(self.listener, SEND, asked[:8] + GO_ON)
        except FileNotFoundError:
            pass  # a signal came first: it was killed, or will ask again

    def kill(self) -> None:
        """Until none is left. The children of a child that has ended become ours. No pause: where new ones cannot
        be refused, they must not get ahead."""
        try:
            while True:
                for number in children():
                    os.kill(number, signal.SIGKILL)
                self.reap()
        except ChildProcessError:
            return

    def reap(self) -> None:
        """Raises ChildProcessError if there is no child, dead or alive."""
        ended, result = os.waitpid(-1, os.WNOHANG)
        while ended:
            if ended == self.child:
                self.result = result
                return
            ended, result = os.waitpid(-1, os.WNOHANG)


def noted(numbers: "Iterable[int]") -> int:
    """A descriptor that these signals can be read from, a byte each."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reading


def send_descriptor(channel: _socket.socket, descriptor: int | None) -> None:
    if descriptor is not None:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", descriptor))
        channel.sendmsg([b"1"], [rights])
        os.close(descriptor)


def receive_descriptor(channel: _socket.socket) -> int | None:
    """None if the other side closed it without sending one."""
    _, ancillary, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(4))
    return struct.unpack("i", ancillary[0][2])[0] if ancillary else None


def children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123 - see TYPE_CHECKING
        return [int(number) for number in file.read().split()]


def confine(order: "dict[str, Any]") -> int | None:
    """The listener that new processes wait for, where there can be one. Raises OSError, and then nothing must be
    started."""
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
    return load_filter(**order["filter"]) if order["filter"] is not None else None


def load_filter(call: int, plain: bytes, held: bytes) -> int | None:
    """The listener of `held`; None if it had to be `plain`: the kernel has no listeners, or one in the chain of
    filters already."""
    buffer = ctypes.create_string_buffer(held, len(held))
    flags = NEW_LISTENER | WAIT_KILLABLE
    listener = int(_libc.syscall(call, SECCOMP_SET_MODE_FILTER, flags, described(buffer)))
    if listener >= 0:
        return listener
    buffer = ctypes.create_string_buffer(plain, len(plain))
    control(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described(buffer))
    return None


def described(program: "ctypes.Array[ctypes.c_char]") -> bytes:
    """struct sock_fprog, which points to the program."""
    return struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(program))


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


def rules_of(
    read: "Iterable[str]", write: "Iterable[str]", devices: "Iterable[str]", ports: "Iterable[int]"
) -> int:
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
