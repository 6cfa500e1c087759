"""Whether a file has the content that an archive holds of it: every byte, since a checksum can be forged."""

import os
from collections.abc import Iterator

from overnight.archive.base import OldContent
from overnight.archive.blocks import BLOCK
from overnight.archive.codec import STORED, CodecError, inflater
from overnight.archive.source import OPEN_FILE
from overnight.archive.walk import Node


def same_content(node: Node, old: OldContent) -> bool:
    """False too if it cannot be read: then it is looked at again when it is packed."""
    try:
        fd = os.open(node.raw, OPEN_FILE, dir_fd=node.parent)
        with os.fdopen(fd, "rb") as file:
            return all(file.read(len(piece)) == piece for piece in _pieces(old)) and not file.read(1)
    except (OSError, CodecError):
        return False


def _pieces(old: OldContent) -> Iterator[bytes]:
    engine = inflater() if old.method != STORED else None
    for offset in range(0, old.compressed_size, BLOCK):
        pending = old.read(offset, BLOCK)
        if engine is None:
            yield pending
            continue
        while pending and not engine.eof:
            yield engine.decompress(pending, BLOCK)
            pending = engine.unconsumed_tail
    while engine is not None and not engine.eof:
        rest = engine.decompress(b"", BLOCK)
        if not rest and not engine.eof:
            raise CodecError("it ends too early")
        yield rest
