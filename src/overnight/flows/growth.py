"""Tells a store how far an archive is written, so that it can send what is there while the rest is packed."""

import asyncio


class GrowingFile:
    """The Growth of one file. Its writer, in a thread, calls `wrote`; the loop that it was made on waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._size = 0
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._moved = asyncio.Event()

    def wrote(self, size: int) -> None:
        """`size` bytes are in the file now. From any thread, once the bytes can be read."""
        self._loop.call_soon_threadsafe(self._move, size)

    def finish(self, size: int) -> None:
        """All is written, and may become visible. On the loop."""
        self._move(size)
        self._over.set_result(None)
        self._moved.set()

    def fail(self, error: BaseException) -> None:
        """What was written is void: whoever waits gets `error`. On the loop."""
        self._over.set_exception(error)
        self._over.exception()  # nobody may wait any more: not an error of its own
        self._moved.set()

    async def beyond(self, size: int) -> tuple[int, bool]:
        while self._size <= size and not self._over.done():
            self._moved.clear()
            await self._moved.wait()
        if self._over.done():
            self._over.result()
        return self._size, self._over.done()

    def _move(self, size: int) -> None:
        self._size = max(self._size, size)
        self._moved.set()
