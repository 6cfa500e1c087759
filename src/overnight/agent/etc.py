"""What an agent sees of the host's /etc, and the directory that a sandbox has in its place.

Each mount costs bubblewrap a third of a millisecond, and more with every other that is there already. So the files are
kept as copies in one directory, which is mounted once; only directories are mounted over it.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

SHOWN = (
    "alternatives",
    "ca-certificates.conf",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",  # never all of ssl: its `private` is readable for root, whom we may be outside
    "ssl/openssl.cnf",
    "timezone",
)


def keep_etc(copy: Path, users: Path, host: Path = Path("/etc")) -> list[str]:
    """Bring `copy` up to date; returns which of SHOWN are directories, and are empty there.

    passwd and group are links into `users`, a path inside of the sandbox. Runs that have `copy` already see what has
    changed. Several may do this at the same time. Raises OSError.
    """
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    _make(copy)
    for name in ("passwd", "group"):
        with contextlib.suppress(FileExistsError):
            (copy / name).symlink_to(users / name)
    return [name for name in SHOWN if _keep(host / name, copy / name, copy.parent)]


def keep_place(copy: Path, host: Path) -> None:
    """Something empty in the copy that `host` can be mounted over. Raises OSError."""
    if host.is_dir():
        _make(copy)
    elif not os.path.lexists(copy):
        _make(copy.parent)
        copy.touch()


def _keep(source: Path, copy: Path, aside: Path) -> bool:
    """Whether it is a directory. What we may not read is not shown."""
    try:
        there = source.stat()
        new = source.read_bytes() if stat.S_ISREG(there.st_mode) and _is_other(copy, there) else None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        if not copy.is_dir():  # an empty one may be a place of mounts for another worker's sandboxes
            copy.unlink(missing_ok=True)
        return False
    _make(copy if stat.S_ISDIR(there.st_mode) else copy.parent)
    if new is not None:
        _write(copy, new, there, aside)
    return stat.S_ISDIR(there.st_mode)


def _is_other(copy: Path, there: os.stat_result) -> bool:
    try:
        kept = copy.stat()
    except FileNotFoundError:
        return True
    return (kept.st_mtime_ns, kept.st_size) != (there.st_mtime_ns, there.st_size)


def _write(copy: Path, content: bytes, there: os.stat_result, aside: Path) -> None:
    """Whole or not at all, and for nobody to read who may not read the original."""
    with tempfile.TemporaryDirectory(dir=aside) as directory:
        fresh = Path(directory, copy.name)
        fresh.write_bytes(content)
        fresh.chmod(there.st_mode & 0o444)
        os.utime(fresh, ns=(there.st_atime_ns, there.st_mtime_ns))
        fresh.replace(copy)


def _make(directory: Path) -> None:
    """For every user of a sandbox to pass and list, whatever our umask."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
