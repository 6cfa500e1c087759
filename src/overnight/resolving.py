"""Looking up names, for those who check every answer before they connect to one."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to addresses in text, a scope id included (`fe80::1%eth0`). Blocks; may raise OSError."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_address_text(sockaddr) for *_, sockaddr in found))


async def resolve(resolver: Resolver, host: str, port: int, *, seconds: float) -> Sequence[str]:
    """In a thread of its own: names whose servers hang must not use up the threads that others wait for.

    Raises OSError (TimeoutError is one), UnicodeError, and what else the resolver raises.
    """
    answer: Future[Sequence[str]] = Future()
    Thread(target=_settle, args=(answer, resolver, host, port), name="resolve", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(answer)


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
