"""`python -m tests.supabase_server DIRECTORY UPLINK`: the stand-in behind a line of so many bytes per second.

Prints its URL. UPLINK 0 is as fast as it goes. Ends with its standard input.
"""

import asyncio
import sys
from pathlib import Path

from tests.supabase_server.app import storage_server
from tests.supabase_server.bucket import Project
from tests.supabase_server.wire import wired


async def main(directory: Path, uplink: float) -> None:
    async with storage_server(Project(directory)) as server, wired(server.url) as wire:
        wire.uplink = uplink or None
        print(wire.url if uplink else server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
