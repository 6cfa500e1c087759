"""API keys in SQLite: a small table, read whole."""

from collections.abc import Callable, Sequence

import apsw
import msgspec

from overnight.adapters.sqlite import rows
from overnight.adapters.sqlite.database import Database
from overnight.domain.errors import KeyNotFound
from overnight.domain.keys import ApiKey

_key = msgspec.json.Decoder(ApiKey)


class SqliteKeys:
    """The port `KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key: ApiKey) -> bool:
        def work(connection: apsw.Connection) -> bool:
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (key.key_id, key.created_at, rows.encode(key)),
            )
            return connection.changes() > 0

        return await self._database.write(work)

    async def find(self, key_id: str) -> ApiKey:
        return await self._database.read(lambda connection: _find(connection, key_id))

    async def keys(self) -> Sequence[ApiKey]:
        return await self._database.read(_all)

    async def change(self, key_id: str, decide: Callable[[ApiKey], ApiKey | None]) -> ApiKey:
        def work(connection: apsw.Connection) -> ApiKey:
            before = _find(connection, key_id)
            after = decide(before)
            if after is None:
                return before
            connection.execute("UPDATE api_keys SET body = ? WHERE key_id = ?", (rows.encode(after), key_id))
            return after

        return await self._database.write(work)


def _find(connection: apsw.Connection, key_id: str) -> ApiKey:
    row = connection.execute("SELECT body FROM api_keys WHERE key_id = ?", (key_id,)).fetchone()
    if row is None:
        raise KeyNotFound("no such key")
    return _key.decode(row[0])


def _all(connection: apsw.Connection) -> list[ApiKey]:
    found = connection.execute("SELECT body FROM api_keys ORDER BY created_at, key_id")
    return [_key.decode(body) for (body,) in found]
