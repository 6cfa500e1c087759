"""A service or a worker that is up."""

import asyncio
from collections.abc import Sequence


class Running:
    """`stop()` asks for a clean end: leaving its block does the rest."""

    def __init__(self, url: str, banner: Sequence[str]) -> None:
        self.url = url
        self.banner = banner
        self.leaving = asyncio.Event()
        self.failed = False

    def stop(self) -> None:
        self.leaving.set()

    def fail(self) -> None:
        """Stop, and say so by the exit status."""
        self.failed = True
        self.leaving.set()

    async def until_stopped(self) -> None:
        await self.leaving.wait()
