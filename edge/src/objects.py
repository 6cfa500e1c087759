"""The ledger within the edge: its Durable Objects by their binding, and the bells of what is written to them."""

import logging

from pyodide.ffi import JsException

from bells import QueueBells
from overnight.adapters.cloudflare.documents import (
    Batch,
    Document,
    Documents,
    Read,
    found_answer,
    text,
    written_answer,
)
from overnight.ports import StorageFailed

log = logging.getLogger(__name__)


class BoundDocuments:
    """The port `Documents`."""

    def __init__(self, namespace):
        self._namespace = namespace

    async def read(self, name: str, read: Read) -> dict[str, Document]:
        return found_answer.decode(await self.read_text(name, text(read))).documents

    async def write(self, name: str, batch: Batch) -> bool:
        return written_answer.decode(
            await self._asked(self._namespace.getByName(name).write(text(batch)))
        ).written

    async def read_text(self, name: str, order: str) -> str:
        return await self._asked(self._namespace.getByName(name).read(order))

    async def _asked(self, call) -> str:
        try:
            return await call
        except JsException as error:
            log.exception("a durable object failed")
            raise StorageFailed("The ledger could not be reached.") from error


class RingingDocuments:
    """The port `Documents`: the bells of a batch ring once it is written. One that fails is rung by the alarm."""

    def __init__(self, documents: Documents, bells: QueueBells):
        self._documents = documents
        self._bells = bells

    async def read(self, name: str, read: Read) -> dict[str, Document]:
        return await self._documents.read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        written = await self._documents.write(name, batch)
        if written:
            await self._bells.ring(batch)
        return written
