"""Stores of jobs that do not always answer."""

from typing import Any


class Unsteady:
    """The port `JobStore`, in front of another one: `_answer` raises when a call is not answered."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def change(self, *given: Any, **more: Any) -> Any:
        self._answer()
        return await self._store.change(*given, **more)

    async def snapshot(self, job_id: str) -> Any:
        self._answer()
        return await self._store.snapshot(job_id)

    def _answer(self) -> None:
        raise NotImplementedError
