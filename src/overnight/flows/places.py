"""Where the parts of one attempt lie.

runs/{job_id}.{attempt}/
    files/      the agent's workspace
    home/       its HOME, with the conversation
    baseline/   the archive that the tree was last equal to, and its record; no run can reach it

.{job_id}.{attempt}.new and .gone beside it are one that is being made or deleted.
"""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from overnight.archive import TRANSCRIPT_PREFIX, Base, Part, is_there, remove_tree
from overnight.ports import Workspace

PROJECT = "workspace"
"""The folder in which Claude Code keeps the conversation, the same wherever the workspace lies."""
_CONVERSATION = ("home", ".claude", "projects")
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def workspace_at(root: Path) -> Workspace:
    return Workspace(
        root=root,
        files=root / "files",
        home=root / "home",
        transcripts=root.joinpath(*_CONVERSATION, PROJECT),
    )


def parts_of(workspace: Workspace) -> tuple[Part, ...]:
    """The files and then the conversation. A run that put something else in the place of its conversation has none."""
    files, conversation = Part(workspace.files, ""), _conversation_of(workspace)
    return (files, conversation) if is_there(conversation) else (files,)


def has_conversation(root: Path) -> bool:
    """Raises OSError if it cannot be told."""
    return is_there(_conversation_of(workspace_at(root)))


def _conversation_of(workspace: Workspace) -> Part:
    return Part(workspace.transcripts, TRANSCRIPT_PREFIX, within=workspace.root)


def make_empty(root: Path) -> None:
    remove_tree(root)
    root.mkdir(mode=0o700, parents=True)
    workspace = workspace_at(root)
    workspace.files.mkdir(mode=0o700)
    workspace.transcripts.mkdir(mode=0o700, parents=True)
    Baseline(root).directory.mkdir(mode=0o700)


def delete(root: Path) -> None:
    """Under another name from the first step on: an attempt would go on in what is half deleted. Raises OSError."""
    gone = root
    if not root.name.startswith("."):
        gone = root.with_name(f".{root.name}.gone")
        remove_tree(gone)  # of a deletion that was cut off
        with contextlib.suppress(FileNotFoundError):
            root.rename(gone)
    remove_tree(gone)


def fresh_home(root: Path) -> None:
    """Make HOME anew around the conversation. Whatever stops it half-way, it can be called again. Raises OSError.

    A run that put something else in the place of its conversation has none.
    """
    workspace, kept = workspace_at(root), root / PROJECT
    if not _is_directory(kept):
        kept.unlink(missing_ok=True)
        if has_conversation(root):
            with projects_of(root) as projects:
                os.rename(PROJECT, kept, src_dir_fd=projects)
        if not _is_directory(kept):
            kept.unlink(missing_ok=True)
            kept.mkdir(mode=0o700)
    remove_tree(workspace.home)
    workspace.transcripts.mkdir(mode=0o700, parents=True)
    kept.rename(workspace.transcripts)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@contextlib.contextmanager
def projects_of(root: Path) -> Iterator[int]:
    """The directory that the conversation lies in, open. OSError if a run put a link on the way to it."""
    with contextlib.ExitStack() as opened:
        fd = os.open(root, _OPEN_DIRECTORY)
        opened.callback(os.close, fd)
        for name in _CONVERSATION:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=fd)
            opened.callback(os.close, fd)
        yield fd


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the next pack of a tree can build on. `root` is the directory that holds `baseline/`."""

    root: Path

    @property
    def directory(self) -> Path:
        return self.root / "baseline"

    @property
    def archive(self) -> Path:
        return self.directory / "archive.zip"

    @property
    def record(self) -> Path:
        return self.directory / "archive.record"

    @property
    def packing(self) -> Path:
        """The archive that is being packed, or waits to be stored."""
        return self.directory / "packing.zip"

    @property
    def packing_record(self) -> Path:
        return self.directory / "packing.record"

    @property
    def sending(self) -> Path:
        """A second name of `packing`: a store may take what it is given."""
        return self.directory / "sending.zip"

    @property
    def session_record(self) -> Path:
        """The record of the session's archive, which was looked through for secrets when it was made."""
        return self.directory / "session.record"

    @property
    def origin(self) -> Path:
        return self.directory / "origin.json"

    @property
    def base(self) -> Base | None:
        return Base(self.archive, self.record) if self.archive.exists() and self.record.exists() else None

    def clear(self) -> None:
        """Whatever was being packed is void."""
        for path in (self.packing, self.packing_record, self.sending):
            path.unlink(missing_ok=True)

    def adopt(self) -> None:
        """What was packed is stored: the next pack builds on it. A death in between costs a full pack."""
        self.record.unlink(missing_ok=True)
        if self.packing.exists() and self.packing_record.exists():
            self.packing.replace(self.archive)
            self.packing_record.replace(self.record)
        self.clear()

    def begin(self, session_archive: str | None, *, restored: bool) -> None:
        """Note which archive the session had. `restored`: the tree is that archive."""
        if restored and self.record.exists():
            shutil.copyfile(self.record, self.session_record)
        self.origin.write_text(json.dumps({"session_archive": session_archive}))

    def is_known_to_begin_from(self, session_archive: str | None) -> bool:
        """The same, and not only supposed."""
        return self.origin.exists() and self.began_from(session_archive)

    def began_from(self, session_archive: str | None) -> bool:
        """Whether the tree grew from this archive of the session. One that an older version left did."""
        try:
            return bool(json.loads(self.origin.read_text())["session_archive"] == session_archive)
        except FileNotFoundError:
            return True
        except (OSError, ValueError, KeyError, TypeError):
            return False


def mend_conversation(root: Path) -> None:
    """Cut off the last line of each transcript if it is not whole: a checkpoint can catch it half written.

    Claude Code skips a torn line but appends to it, and so loses the next one as well.
    """
    with projects_of(root) as projects:
        for _, _, names, directory in os.fwalk(PROJECT, dir_fd=projects, follow_symlinks=False):
            for name in names:
                if name.endswith(".jsonl"):
                    _mend(name, directory)


def _mend(name: str, directory: int) -> None:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return
    with os.fdopen(os.open(name, flags, dir_fd=directory), "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        whole = _last_line_end(file.fileno(), end)
        if whole < end:
            file.truncate(whole)


def _last_line_end(fd: int, end: int) -> int:
    """The offset after the last newline before `end`; 0 if there is none."""
    step = 1 << 16
    while end:
        start = max(end - step, 0)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
