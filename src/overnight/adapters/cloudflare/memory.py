"""What a process remembers of the ledger, so that it need not ask for it: each look is a request that is paid for.

Nothing is decided by memory alone. A write counts on the versions that are remembered, so one that is out of date is
refused, and what a rule refuses by memory is asked for anew.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

from overnight.adapters.cloudflare.documents import Batch, Document

V = TypeVar("V")

MOST = 1000
"""Routes, and running jobs, of one process: each is some kilobytes."""


class Memory(Generic[V]):
    """The latest few, by name."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, V] = OrderedDict()

    def recall(self, name: str) -> V | None:
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name)

    def keep(self, name: str, value: V) -> None:
        self._kept[name] = value
        self._kept.move_to_end(name)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, name: str) -> None:
        self._kept.pop(name, None)


def as_written(found: Mapping[str, Document], batch: Batch) -> dict[str, Document]:
    """The documents that were read, as the batch has left them: a put raises a version by one."""
    return {
        key: Document(document.version + 1, batch.put[key]) if key in batch.put else document
        for key, document in found.items()
    }
