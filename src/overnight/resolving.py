"""Looking up names, for those who check every answer before they connect to one."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to addresses in text, a scope id included (`fe80::1%eth0`). Blocks; may raise OSError."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_address_text(sockaddr) for *_, sockaddr in found))


async def resolve(
    resolver: Resolver, host: str, port: int, *, seconds: float, at_once: asyncio.Semaphore | None = None
) -> Sequence[str]:
    """In a thread of its own: names whose servers hang must not use up the threads that others wait for.

    A thread cannot be ended: it holds its place of `at_once` until the resolver comes back, however long ago we gave
    up on it. Raises OSError (TimeoutError is one), UnicodeError, and what else the resolver raises.
    """
    async with asyncio.timeout(seconds):
        if at_once is not None:
            await at_once.acquire()
        return await asyncio.wrap_future(_asked(resolver, host, port, at_once))


def _asked(
    resolver: Resolver, host: str, port: int, at_once: asyncio.Semaphore | None
) -> Future[Sequence[str]]:
    """The answer to come; with it the place is given back."""
    answer: Future[Sequence[str]] = Future()
    if at_once is not None:
        release = partial(_in_loop, asyncio.get_running_loop(), at_once.release)
        answer.add_done_callback(lambda _: release())
    try:
        Thread(target=_settle, args=(answer, resolver, host, port), name="resolve", daemon=True).start()
    except RuntimeError as error:  # The system has no thread left for us.
        answer.set_exception(OSError(str(error)))
    return answer


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # It is closed: nobody waits there any more.
        loop.call_soon_threadsafe(call)


def _address_text(sockaddr: tuple[str | int | bytes, ...]) -> str:
    """IPv6 answers have four parts; the last is the scope id."""
    address = str(sockaddr[0])
    scope = int(sockaddr[3]) if len(sockaddr) == 4 else 0
    return f"{address}%{scope}" if scope and "%" not in address else address


def _settle(answer: Future[Sequence[str]], resolver: Resolver, host: str, port: int) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(resolver(host, port))
    except Exception as error:  # noqa: BLE001 - goes on to the one who waits for the answer
        answer.set_exception(error)
