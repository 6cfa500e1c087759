"""Reads what a walk finds, in its order. Where there is much of it a second process reads a part of it ahead."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from typing import NamedTuple

from overnight.archive.helper import FEW, Helper, HelperLost, start_helper
from overnight.archive.model import KIB, MIB, Omission, Part
from overnight.archive.source import FoundLarge, Read, Reader
from overnight.archive.walk import Descent, Node, open_root
from overnight.archive.wire import Place, Reading, places_to, readings_from

BATCH = 64
"""Nodes that one of the two reads in one go."""
LARGEST_BATCH = 2 * MIB
"""Compressed bytes after which a batch is ended."""
_HELD = 16 * MIB
"""Compressed bytes that may wait for their turn, with 1 KiB for each file however small."""
_ASKED = 2
"""Batches that the helper has at most, with a thread that waits for each: when it sends one it has the next."""

Outcome = tuple[Node, Read | FoundLarge | Omission]


def read_in_order(part: Part, reader: Reader, nodes: Iterable[Node]) -> Generator[Outcome, None, None]:
    """Every node, which need not be valid any more, with what it holds, or why it is left out.

    Close it. Raises OSError for trouble of our own.
    """
    nodes = iter(nodes)
    for node in islice(nodes, FEW):
        yield node, reader.read(node)
    more = next(nodes, None)
    if more is None:
        return
    nodes = chain((more,), nodes)
    with start_helper() as helper:
        if helper is None:
            yield from ((node, reader.read(node)) for node in nodes)
        else:
            order = {"prefix": part.prefix, "largest": reader.largest, "live_since_ns": reader.live_since_ns}
            helper.order("read", order, {"root": open_root(part)})
            with (
                closing(Descent(open_root(part), part.prefix)) as descent,
                ThreadPoolExecutor(_ASKED, "pack-ahead") as thread,
            ):
                yield from _Ahead(reader, descent, helper, thread).read(nodes)


def read_places(reader: Reader, descent: Descent, places: Iterable[Place]) -> list[Reading]:
    """The helper's part: large files are left, and so is what follows when there is enough."""
    readings: list[Reading] = []
    held = 0
    for path, kind in places:
        readings.append(_read_small(reader, descent.node(path, kind)))
        held += _size_of(readings[-1])
        if held > LARGEST_BATCH:
            break
    return readings


def _read_small(reader: Reader, node: Node | Omission) -> Reading:
    if isinstance(node, Omission):
        return node
    reading = reader.read(node)
    if isinstance(reading, FoundLarge):
        reading.content.close()
        return None
    return reading


def _size_of(reading: Reading) -> int:
    return reading.body.compressed_size if isinstance(reading, Read) else 0


class _Batch(NamedTuple):
    nodes: list[Node]
    readings: Future[list[Reading]]
    asked: bool
    held: int


class _Ahead:
    """Two readers and one order. What neither has read when its turn comes (large files) is read then."""

    def __init__(self, reader: Reader, descent: Descent, helper: Helper, thread: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._descent = descent
        self._helper = helper
        self._thread = thread
        self._is_lost = False
        self._waiting: deque[_Batch] = deque()

    def read(self, nodes: Iterator[Node]) -> Iterator[Outcome]:
        try:
            while (batch := self._next(nodes)).nodes:
                self._waiting.append(batch)
                while self._waiting and (self._waiting[0].readings.done() or self._is_full()):
                    yield from self._settled(self._waiting.popleft())
            while self._waiting:
                yield from self._settled(self._waiting.popleft())
        finally:
            self._helper.stop()  # or the thread would wait for it

    def _next(self, nodes: Iterator[Node]) -> _Batch:
        if self._is_lost or sum(batch.asked for batch in self._waiting) >= _ASKED:
            return self._read(nodes)
        found = list(islice(nodes, BATCH))
        files = [node for node in found if node.status is None]
        return _Batch(found, self._thread.submit(self._ask, files), asked=True, held=LARGEST_BATCH)

    def _is_full(self) -> bool:
        return sum(batch.held for batch in self._waiting) > _HELD

    def _ask(self, files: list[Node]) -> list[Reading]:
        return readings_from(self._helper.ask(places_to(files)), files) if files else []

    def _read(self, nodes: Iterator[Node]) -> _Batch:
        found: list[Node] = []
        readings: list[Reading] = []
        held = 0
        for node in islice(nodes, BATCH):
            found.append(node)
            if node.status is None:
                readings.append(_read_small(self._reader, node))
                held += _size_of(readings[-1])
                if held > LARGEST_BATCH:
                    break
        done: Future[list[Reading]] = Future()
        done.set_result(readings)
        return _Batch(found, done, asked=False, held=held + len(found) * KIB)

    def _settled(self, batch: _Batch) -> Iterator[Outcome]:
        """A reading that is missing, for whatever reason, is made now."""
        try:
            readings = iter(batch.readings.result())
        except HelperLost:
            self._is_lost, readings = True, iter(())
        for node in batch.nodes:
            if node.status is not None:
                yield node, self._reader.read(node)
                continue
            reading = next(readings, None)
            yield node, self._read_again(node) if reading is None else reading

    def _read_again(self, node: Node) -> Read | FoundLarge | Omission:
        again = self._descent.node(node.path, node.kind)
        return again if isinstance(again, Omission) else self._reader.read(again)
