"""`overnight archive`: pack, unpack and list zips, with the engine that keeps sessions. Blocking."""

import errno
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from msgspec import Struct

from overnight.archive import (
    DEFAULT_EXCLUDE,
    OWN,
    UPLOAD,
    ArchiveRefused,
    Base,
    Check,
    Entry,
    Kind,
    Packed,
    Part,
    inspect,
    pack,
    printable,
    unpack,
)
from overnight.cli.exits import Exit, Unable
from overnight.cli.show import as_json
from overnight.cli.text import columns, visible


class EntryLine(Struct, kw_only=True):
    name: str
    kind: Kind
    size: int
    mode: str
    mtime_ns: int


def record_of(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for; `exclude` is None for the default."""

    base: Path | None
    exclude: Sequence[str] | None
    by_content: bool


def pack_directory(directory: Path, file: Path, order: Order) -> Exit:
    if file.resolve().is_relative_to(directory.resolve()):
        raise Unable(
            f"{visible(str(file))} lies in the directory itself. Nothing was written: name another place.",
            Exit.FAILED,
        )
    with _told():
        packed = pack(
            [Part(directory, "")],
            file,
            exclude=DEFAULT_EXCLUDE if order.exclude is None else order.exclude,
            base=Base(order.base, record_of(order.base)) if order.base else None,
            record=record_of(file),
            settled=False,
            check=Check.CONTENT if order.by_content else Check.STATUS,
        )
    typer.echo("\n".join(_lines(packed, file, order.base)))
    return Exit.OK


def unpack_into(file: Path, directory: Path, *, untrusted: bool) -> Exit:
    with _told():
        done = unpack(file, {"": directory.absolute()}, profile=UPLOAD if untrusted else OWN)
    typer.echo(
        f"unpacked {done.entries} entries, {done.content_bytes:,} bytes, into {visible(str(directory))}"
    )
    return Exit.OK


def show(file: Path, *, json: bool) -> Exit:
    with _told():
        entries = inspect(file).entries
    if json:
        typer.echo(as_json([_line(entry) for entry in entries]))
    else:
        rows = [
            (_mode(entry), f"{entry.size:,}", _time(entry), visible(printable(entry.name)))
            for entry in entries
        ]
        typer.echo("\n".join(columns(rows)) if rows else "no entries")
    return Exit.OK


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def _told() -> Iterator[None]:
    """Refusals and a full disk as the reason to stop; other errors of the system pass."""
    try:
        yield
    except ArchiveRefused as refused:
        raise Unable(str(refused), Exit.FAILED) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        kept = "What was there before is as it was, and nothing else was left."
        raise Unable(f"The disk is full. {kept} Make room and try again.", Exit.FAILED) from None


def _lines(packed: Packed, file: Path, base: Path | None) -> Iterator[str]:
    yield f"packed {packed.entries} entries into {visible(str(file))}: {packed.size:,} bytes"
    if packed.incremental:
        yield f"copied {packed.reused_entries} of them from the base; {packed.fresh_bytes:,} bytes are new"
    elif base:
        yield "packed in full: the base or its record is missing, damaged, or not of one another"
    if packed.ignore_note:
        yield f"note: {packed.ignore_note}"
    for left_out in packed.left_out:
        yield f"left out: {visible(left_out.path)} ({left_out.reason})"
    if packed.left_out_total > len(packed.left_out):
        yield f"left out: {packed.left_out_total - len(packed.left_out)} more"
    for path in packed.changed:
        yield f"changed while it was read: {visible(path)}"


def _line(entry: Entry) -> EntryLine:
    return EntryLine(
        name=printable(entry.name),
        kind=entry.kind,
        size=entry.size,
        mode=_mode(entry),
        mtime_ns=entry.mtime_ns,
    )


_KIND_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}


def _mode(entry: Entry) -> str:
    """As `ls -l` writes it."""
    return stat.filemode(_KIND_BITS[entry.kind] | entry.mode)


def _time(entry: Entry) -> str:
    try:
        return (
            f"{datetime.fromtimestamp(0, UTC) + timedelta(seconds=entry.mtime_ns // 10**9):%Y-%m-%d %H:%M:%S}"
        )
    except OverflowError:
        return "far away"
