"""The ledger as its users see it: objects that hold versioned documents, written by compare-and-swap.

One object is one Durable Object. It knows nothing of jobs: it stores texts under keys, each with a version, and
writes a batch only if every version that the batch counts on is still the current one.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from overnight.ports import StorageFailed

ABSENT = 0
"""The version of a document that is not there."""


MAX_DOCUMENT_BYTES = 16_000_000
"""A document is as many rows as it needs (`object_rows.py`); this much of it is in the memory of an isolate, which has
128 MB, in several copies at once."""


class Document(Struct, frozen=True, array_like=True):
    version: int
    body: str


class Span(Struct, frozen=True):
    """Documents whose keys begin with `prefix` and come after `after`, in the order of their keys.

    Without `bodies` they come empty: for who only wants their names. `most_characters`: no more of them than have so
    many together, but at least one; 0 for as many as there are.
    """

    prefix: str
    after: str = ""
    limit: int = 1000
    bodies: bool = True
    most_characters: int = 0


class Read(Struct, frozen=True):
    """What to read in one look at an object."""

    keys: Sequence[str] = ()
    spans: Sequence[Span] = ()


class Batch(Struct, frozen=True):
    """What to write in one transaction, if each document still has the version that is expected of it.

    `wipe` deletes all that the object holds, before `put`. `rings` are the jobs whose bells are to ring once it is
    written, each with its time: the edge has the queue, and no limit on what it sends there.
    """

    expect: Mapping[str, int] = {}
    put: Mapping[str, str] = {}
    delete: Sequence[str] = ()
    wipe: bool = False
    rings: Mapping[str, float] = {}


class Bell(Struct, frozen=True):
    """A bell that is asked for without a write."""

    job_id: str
    at: float


class Found(Struct, frozen=True):
    documents: Mapping[str, Document]


class Written(Struct, frozen=True):
    """False: something had another version, and nothing was written."""

    written: bool


class Documents(Protocol):
    """All objects of a ledger. Every method may raise StorageError."""

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        """What is there of it, by key; an object that was never written is empty."""
        ...

    async def write(self, name: str, batch: Batch) -> bool:
        """Durable on return. False: a version was another, and nothing was written.

        A put raises the version of a document that is there by one; that of a new one is none that it had before.
        """
        ...


read_order = msgspec.json.Decoder(Read)
batch_order = msgspec.json.Decoder(Batch)
bell_order = msgspec.json.Decoder(Bell)
found_answer = msgspec.json.Decoder(Found)
written_answer = msgspec.json.Decoder(Written)


def check_sizes(batch: Batch) -> None:
    """Raises StorageFailed: nothing was written, and trying again does not help."""
    if any(len(body.encode()) > MAX_DOCUMENT_BYTES for body in batch.put.values()):
        raise StorageFailed(
            f"The ledger takes no document over {MAX_DOCUMENT_BYTES} bytes. Nothing was written."
        )


def text(value: object) -> str:
    """Any of the above as JSON."""
    return msgspec.json.encode(value).decode()
