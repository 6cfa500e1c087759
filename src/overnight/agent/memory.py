"""The instructions that a workspace carries for Claude Code: its CLAUDE.md files.

With `setting_sources=[]` Claude Code does not read them, and it must not read the settings that lie beside
them (hooks and servers there would run in the next job). So we read the text and hand it in. The workspace
was written by an agent: no symlink is followed, no pipe is waited for, and the size is limited.
"""

import contextlib
import os
import stat
from pathlib import Path

FILES = ("CLAUDE.md", ".claude/CLAUDE.md", "CLAUDE.local.md")
LIMIT = 40_000
"""Characters of one file. Claude Code itself warns above this size."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def instructions(files: Path) -> str:
    """All of the workspace's CLAUDE.md files as one text; empty if there are none."""
    parts = []
    for name in FILES:
        text = _read(files, name)
        if text.strip():
            parts.append(
                f"Contents of {name} of the workspace (instructions of its owner):\n\n{text.strip()}"
            )
    return "\n\n".join(parts)


def _read(root: Path, name: str) -> str:
    *folders, file = name.split("/")
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        directory = os.open(root, _DIRECTORY)
        stack.callback(os.close, directory)
        for folder in folders:
            directory = os.open(folder, _DIRECTORY, dir_fd=directory)
            stack.callback(os.close, directory)
        return _text(os.open(file, _REGULAR, dir_fd=directory), name)
    return ""


def _text(descriptor: int, name: str) -> str:
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        text = file.read(4 * LIMIT + 1).decode("utf-8", "replace")
    if len(text) <= LIMIT:
        return text
    return f"{text[:LIMIT]}\n[{name} goes on: only its first {LIMIT} characters are given here]"
