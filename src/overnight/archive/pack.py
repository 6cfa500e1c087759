"""Packs trees into a zip: the story from a walk to a file that stays."""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from overnight.archive.base import OldArchive, opened
from overnight.archive.durable import whole_file
from overnight.archive.model import DEFAULT_EXCLUDE, OWN_CAPS, RESERVED, Base, Caps, Check, Packed, Part
from overnight.archive.output import Assembly, AssemblyOutput, FileSink, HashedOutput, Output, StreamSink
from overnight.archive.packing import Packing, Rules

Target = BinaryIO | Path | Assembly
CORES = 2
"""Threads that deflate the blocks of large files; more of them would only wait for the hash."""


def pack(
    parts: Sequence[Part],
    target: Target,
    *,
    entries: Mapping[str, bytes] | None = None,
    exclude: Collection[str] = DEFAULT_EXCLUDE,
    limits: Caps = OWN_CAPS,
    base: Base | None = None,
    record: Path | None = None,
    settled: bool = True,
    check: Check = Check.STATUS,
    wrote: Callable[[int], None] | None = None,
) -> Packed:
    """Writes `entries` (name to content) and each part, in bytes order, to a stream, a durable file or an
    Assembly.

    Equal trees give equal bytes. `exclude` names components of the workspace; what could not be kept is
    listed. Links are stored, never followed. With a `base`, what did not change since is copied from it and comes
    first; a base that does not fit is as none. `record` is where the record of this pack is written, for the
    next; `settled=False` says that the trees are still written to. `wrote` is told, in another thread, how many
    bytes have reached the target, from its front to its end.

    Raises ArchiveRefused(TOO_LARGE) over a limit, OSError if a root is no directory or the target cannot be
    written; then a target that is a path is untouched, and so is the record.
    """
    _check_layout(parts, entries or {})
    since = _file_system_time(record.parent) if record and not settled else None
    rules = Rules(exclude=exclude, limits=limits, check=check, live_since_ns=since)
    with (
        opened(base) as old,
        ThreadPoolExecutor(CORES, "pack-blocks") as pool,
        _output(target, limits.archive_bytes, old, wrote) as output,
    ):
        packing = Packing(output, rules, old, pool)
        packing.add_all(parts, entries or {})
        packed, known = packing.finish()
    if record:
        known.save(record)
    return packed


def _check_layout(parts: Sequence[Part], entries: Mapping[str, bytes]) -> None:
    for name in (*(part.prefix for part in parts if part.prefix), *entries):
        if not name.startswith(f"{RESERVED}/") or str(PurePosixPath(name)) != name or ".." in name.split("/"):
            raise ValueError(f"{name!r} must lie below {RESERVED}/")


@contextmanager
def _output(
    target: Target, limit: int, old: OldArchive | None, wrote: Callable[[int], None] | None
) -> Iterator[Output]:
    read = old.read if old else _nothing
    if isinstance(target, Assembly):
        yield AssemblyOutput(target, limit)
    elif isinstance(target, Path):
        with whole_file(target) as file, HashedOutput(FileSink(file.fileno()), limit, read, wrote) as output:
            yield output
    else:
        with HashedOutput(StreamSink(target), limit, read, wrote) as output:
            yield output


def _nothing(offset: int, length: int) -> bytes:
    raise AssertionError("nothing is copied without a base")


def _file_system_time(directory: Path) -> int:
    """In nanoseconds. Its clock may tick more coarsely than ours, and may be another machine's."""
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_mtime_ns
