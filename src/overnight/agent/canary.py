"""The attack that is run inside a tier before the tier is believed (see `attack.py`).

A program of its own (standard library only): it is started in the place of Claude Code, with a JSON object that
names what was planted for it. It prints what it managed to do, one JSON object, and leaves two survivors behind
that hold its output open.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = 2.0
ORPHAN = ("/bin/sh", "-c", "sleep 30 &")
REFUSALS = (errno.EPERM, errno.ENOSYS, errno.EACCES)
CLONE_NEWUSER, MS_BIND, PTRACE_TRACEME, PTRACE_SEIZE = 0x10000000, 4096, 0, 0x4206
IO_URING_SETUP = 425
NUMBERS = {"x86_64": {"bpf": 321, "keyctl": 250}, "aarch64": {"bpf": 280, "keyctl": 219}}
SECCOMP = {"x86_64": 317, "aarch64": 277}
SET_MODE_FILTER, NEW_LISTENER = 1, 8
ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)

_libc = ctypes.CDLL(None, use_errno=True)

Targets = dict[str, Any]


def main() -> None:
    targets = json.loads(sys.argv[1])
    managed = [name for name, attack in ATTACKS.items() if manages(attack, targets)]
    said = json.dumps({"managed": managed})
    for environment in ({}, dict(os.environ)):  # noqa: TID251 - to lose the run's mark, and to keep it
        subprocess.run(ORPHAN, env=environment, start_new_session=True, check=True)  # noqa: S603 - a constant
    print(said, flush=True)


def manages(attack: Callable[[Targets], bool], targets: Targets) -> bool:
    try:
        return attack(targets)
    except OSError:
        return False


def read_the_secret(targets: Targets) -> bool:
    """A file of the service, which only its user may read."""
    return bool(Path(targets["secret"]).read_bytes())


def read_an_open_file(targets: Targets) -> bool:
    """One that every user may read."""
    return bool(Path(targets["open"]).read_bytes())


def write_outside(targets: Targets) -> bool:
    return any(can_write(Path(place)) for place in (targets["outside"], "/etc", "/usr", "/opt", "/"))


def can_write(directory: Path) -> bool:
    path = directory / f".overnight-canary-{uuid.UUID(bytes=os.urandom(16))}"
    try:
        path.touch()
        path.unlink()
    except OSError:
        return False
    return True


def read_an_environment(targets: Targets) -> bool:
    return any(targets["planted"].encode() in text for text in of_every_process("environ"))


def see_a_process(targets: Targets) -> bool:
    return any(targets["planted"].encode() in text for text in of_every_process("cmdline"))


def of_every_process(name: str) -> list[bytes]:
    """But for ourselves, who were told by an argument what to look for."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.name != str(os.getpid()):
                found.append((entry / name).read_bytes())
    return [text for text in found if b'"planted"' not in text]


def signal_a_process(targets: Targets) -> bool:
    if not is_there(targets):
        return False
    os.kill(targets["victim"], 0)
    return True


def limit_a_process(targets: Targets) -> bool:
    """Who may set limits can let the kernel kill it. They are only read here."""
    return is_there(targets) and bool(resource.prlimit(targets["victim"], resource.RLIMIT_CORE))


def trace_a_process(targets: Targets) -> bool:
    return is_there(targets) and _libc.ptrace(PTRACE_SEIZE, targets["victim"], None, None) >= 0


def is_there(targets: Targets) -> bool:
    """In a namespace of ours the victim's number is somebody else's, or nobody's."""
    return targets["planted"].encode() in Path(f"/proc/{targets['victim']}/cmdline").read_bytes()


def reach_a_listener(targets: Targets) -> bool:
    return any(connects((host, targets["tcp"])) for host in ("127.0.0.1", *targets["addresses"]))


def send_a_datagram(targets: Targets) -> bool:
    """Whether it arrived is looked at from the other side."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(targets["planted"].encode(), ("127.0.0.1", targets["udp"]))
    return False


def connects(address: Any, family: int = socket.AF_INET) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        try:
            client.connect(address)
        except OSError:
            return False
    return True


def reach_an_abstract_socket(targets: Targets) -> bool:
    return connects(f"\0{targets['planted']}", socket.AF_UNIX)


def reach_a_socket_by_path(targets: Targets) -> bool:
    return connects(targets["socket"], socket.AF_UNIX)


def open_a_raw_socket(_: Targets) -> bool:
    kinds = (
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
        (socket.AF_PACKET, socket.SOCK_RAW, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    )
    return any(opens(*kind) for kind in kinds)


def opens(family: int, kind: int, protocol: int) -> bool:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return False
    return True


def use_the_kernel(_: Targets) -> bool:
    """Calls that a filter must refuse; one that the kernel refuses for a wrong argument came through."""
    numbers = NUMBERS.get(os.uname().machine, {})
    calls: tuple[Callable[[], int], ...] = (
        lambda: _libc.unshare(CLONE_NEWUSER),
        lambda: _libc.ptrace(PTRACE_TRACEME, 0, None, None),
        lambda: _libc.mount(b"/", b"/", None, MS_BIND, None),
        lambda: _libc.syscall(IO_URING_SETUP, 0, None),
        *(lambda number=number: _libc.syscall(number, 0, 0, 0, 0, 0) for number in numbers.values()),
    )
    return any(came_through(call) for call in calls)


def came_through(call: Callable[[], int]) -> bool:
    return call() >= 0 or ctypes.get_errno() not in REFUSALS


def take_a_listener(_: Targets) -> bool:
    """With one it could answer its own forks, in the place of who is to end them."""
    buffer = ctypes.create_string_buffer(ALLOW_ALL, len(ALLOW_ALL))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(buffer))
    number = SECCOMP.get(os.uname().machine)
    return number is not None and _libc.syscall(number, SET_MODE_FILTER, NEW_LISTENER, program) >= 0


def dump_core_or_take_all_memory(_: Targets) -> bool:
    limits = resource.getrlimit
    return (
        limits(resource.RLIMIT_CORE)[1] != 0
        or limits(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
        or limits(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    )


def fork_without_limit(_: Targets) -> bool:
    """Under a limit of one process. The kernel does not keep it for root, nor in a sandbox that root made."""
    limits = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, limits[1]))
    try:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, limits)
    return True


def work_in_the_workspace(targets: Targets) -> bool:
    """The file stays: whose it is, as seen from outside, says who we are."""
    Path(targets["own"]).touch()
    return can_write(Path.cwd())


def start_claude_code(targets: Targets) -> bool:
    return os.access(targets["cli"], os.X_OK)


def reach_the_gateway(targets: Targets) -> bool:
    return connects(("127.0.0.1", urlsplit(targets["gateway"]).port))


ATTACKS: dict[str, Callable[[Targets], bool]] = {
    function.__name__: function
    for function in (
        read_the_secret,
        read_an_open_file,
        write_outside,
        read_an_environment,
        see_a_process,
        signal_a_process,
        limit_a_process,
        trace_a_process,
        reach_a_listener,
        send_a_datagram,
        reach_an_abstract_socket,
        reach_a_socket_by_path,
        open_a_raw_socket,
        use_the_kernel,
        take_a_listener,
        dump_core_or_take_all_memory,
        fork_without_limit,
        work_in_the_workspace,
        start_claude_code,
        reach_the_gateway,
    )
}

if __name__ == "__main__":
    main()
