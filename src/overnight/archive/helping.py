"""The second process: reads files for a pack, or writes them for a restore, until its channel ends."""

import json
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import closing

from overnight.archive.helper import Channel
from overnight.archive.model import ArchiveRefused
from overnight.archive.owners import Owner
from overnight.archive.reader import ArchiveFile
from overnight.archive.reading import read_places
from overnight.archive.source import Reader
from overnight.archive.walk import Descent
from overnight.archive.wire import DIALECT, places_from, readings_to, spans_from, trouble_to, written_to
from overnight.archive.writing import FileWriter, Manner, Reach


def main() -> None:
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # for the one that we help, whose end is ours
        signal.signal(number, signal.SIG_IGN)
    descriptor, dialect = sys.argv[1:]
    if dialect != DIALECT:
        return
    with closing(Channel(socket.socket(fileno=int(descriptor)))) as channel:
        order, descriptors = channel.receive_order()
        if order is None:
            return
        work, options, names = json.loads(order)
        answer = _WORKS[work](**options, **dict(zip(names, descriptors, strict=True)))
        while (request := channel.receive()) is not None:
            channel.send(answer(request))


def _reading(*, root: int, prefix: str, largest: int, live_since_ns: int | None) -> Callable[[bytes], bytes]:
    reader, descent = Reader(largest, live_since_ns), Descent(root, prefix)
    return lambda request: readings_to(read_places(reader, descent, places_from(request)))


def _writing(
    *,
    root: int,
    archive: int,
    prefix: str,
    plain_modes: bool,
    fresh_times: bool,
    owner: Owner | None,
    recorded: bool,
) -> Callable[[bytes], bytes]:
    file, reach = ArchiveFile(archive), Reach(root)

    def answer(request: bytes) -> bytes:
        statuses: dict[bytes, bytes] = {}
        manner = Manner(
            plain_modes=plain_modes,
            fresh_times=fresh_times,
            owner=owner,
            statuses=statuses if recorded else None,
        )
        try:
            if batch := spans_from(request):
                FileWriter(file, manner, prefix, reach).write(batch)
        except (ArchiveRefused, OSError) as error:
            return trouble_to(error)
        return written_to(list(statuses.values()))

    return answer


_WORKS: Mapping[str, Callable[..., Callable[[bytes], bytes]]] = {"read": _reading, "write": _writing}
"""See `read_in_order` and `Restore` for what they order."""


if __name__ == "__main__":
    main()
