"""Opens listening sockets inside the network namespaces of runs, for a worker that stays outside of them.

A program of its own (standard library only), because a process that has entered a user namespace cannot come
back, and one with threads cannot enter it at all. It is started once by the worker and forks for every run: a
fork costs a millisecond, a start of Python twenty and more. The worker passes three descriptors: bubblewrap's
info to read, its block to write, and a socket for the answer: the two listeners, or a byte string that says
what failed.

Nothing outlives the worker: this process ends with it, and each fork after ALARM_SECONDS at the latest.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

ALARM_SECONDS = 60
BACKLOG = 128
PORTS = (8080, 3128)

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
NS_GET_USERNS = 0xB701
IP_FREEBIND = 15
PR_SET_PDEATHSIG = 1
MAX_INFO_BYTES = 65536

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    parent = int(sys.argv[1])
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a Ctrl-C is for the worker, which hands its runs back first
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that forks leave no zombies
    orders = socket.socket(fileno=0)
    while True:
        order, descriptors, _, _ = socket.recv_fds(orders, 1, 3)
        if not order:
            return
        if os.fork() == 0:
            orders.close()
            serve(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def serve(info: int, block: int, answer: int) -> None:
    """One run, in a process of its own: never returns."""
    signal.alarm(ALARM_SECONDS)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with socket.socket(fileno=answer) as reply:
        try:
            listeners = listen_inside(read_info(info, answer))
            socket.send_fds(reply, [b"+"], [listener.fileno() for listener in listeners])
            os.write(block, b"+")
        except (OSError, ValueError, KeyError) as error:
            reply.send(f"-{type(error).__name__}: {error}".encode()[:1000])
    os._exit(0)


def read_info(info: int, answer: int) -> dict[str, int]:
    """What bubblewrap says of its sandbox. Raises OSError if either side goes away before."""
    waiting = select.poll()
    waiting.register(info, select.POLLIN)
    waiting.register(answer, 0)
    text = b""
    while not text.rstrip().endswith(b"}"):
        ready = dict(waiting.poll())
        part = os.read(info, MAX_INFO_BYTES) if info in ready else b""
        if not part:
            raise ConnectionAbortedError("the sandbox or the worker went away")
        text += part
    return dict(json.loads(text))


def listen_inside(found: dict[str, int]) -> list[socket.socket]:
    network = os.open(f"/proc/{found['child-pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    # Not of the host, and not of a later process that was given the same number.
    if os.fstat(network).st_ino != found["net-namespace"]:
        raise ConnectionAbortedError("the sandbox ended before its network was entered")
    # In the user namespace that owns it, we have the right to enter it, also without any privilege. If that is
    # ours, we are root: there is nothing to enter.
    owner = fcntl.ioctl(network, NS_GET_USERNS)
    if os.fstat(owner).st_ino != Path("/proc/self/ns/user").stat().st_ino:
        enter(owner, CLONE_NEWUSER)
    enter(network, CLONE_NEWNET)
    return [listen(port) for port in PORTS]


def enter(namespace: int, kind: int) -> None:
    if _libc.setns(namespace, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # The address may be bound before bubblewrap has brought the loopback interface up.
    listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


if __name__ == "__main__":
    main()
