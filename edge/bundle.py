"""Packs npm's Pyodide into the bundle that workerd loads under `python_workers_development`.

As shipped, workerd downloads its bundle; with that flag it reads `pyodide_dev.capnp.bin` from a directory. The file
is one Cap'n Proto message: a struct with a list of three modules. This is a private interface of workerd, so the
versions are pinned in `package.json`, and every edit below counts what it replaces (facts: cloudflare 1.2 to 1.4).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "pyodide_dev.capnp.bin"
INTERNAL = 2
"""The module's type: one of workerd's own."""
SRC, WASM, DATA = 0, 1, 2
"""Which member of the union a module's content is, in the order of their ordinals."""

_WORD = 8
_STRUCT, _LIST = 0, 1
_BYTES, _COMPOSITE = 2, 7
"""Sizes of a list's elements, as its pointer names them."""

_IMPORTS = "import { newWasmModule, getRandomValues, patchedLoadLibData } from 'pyodide-internal:builtin_wrappers';\n"
_LIB_DATA = (
    "function loadLibData(){const data=patchedLoadLibData(Module,libName,flags.rpath);"
    "return flags.loadAsync?Promise.resolve(data):data}function unusedLoadLibData(){"
)
EDITS = (
    ("new WebAssembly.Module(", 4, "newWasmModule("),
    ("crypto.getRandomValues(view)", 1, "getRandomValues(Module,view)"),
    ("function loadLibData(){", 1, _LIB_DATA),
    ("export default _createPyodideModule;", 1, "export { _createPyodideModule };"),
)
"""What occurs in the glue file, how often, and what workerd needs in its place: it compiles no wasm at run time
and has a random source of its own."""


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    member: int
    content: bytes


def pack(pyodide: Path) -> bytes:
    """The bundle of the npm package in this directory. Raises ValueError for another version of it."""
    prefix = "pyodideRuntime-internal:"
    return message(
        [
            Module(f"{prefix}pyodide.asm", SRC, edited((pyodide / "pyodide.asm.mjs").read_text()).encode()),
            Module(f"{prefix}pyodide.asm.wasm", WASM, (pyodide / "pyodide.asm.wasm").read_bytes()),
            Module(f"{prefix}python_stdlib.zip", DATA, (pyodide / "python_stdlib.zip").read_bytes()),
        ]
    )


def edited(glue: str) -> str:
    for old, count, new in EDITS:
        found = glue.count(old)
        if found != count:
            raise ValueError(
                f"the glue of Pyodide has {old!r} {found} times, not {count}: it is another version"
            )
        glue = glue.replace(old, new)
    return _IMPORTS + glue


def message(modules: Sequence[Module]) -> bytes:
    """The modules as one segment: the root's pointers, the list, then each name and content."""
    tag = 2
    first = tag + 1
    blobs_at = first + _MODULE_WORDS * len(modules)
    words = bytearray(_struct_pointer(0, data=0, pointers=1))
    words += _list_pointer(0, _COMPOSITE, _MODULE_WORDS * len(modules))
    words += struct.pack("<iHH", len(modules) << 2 | _STRUCT, _DATA_WORDS, _POINTERS)
    blobs = bytearray()
    for number, module in enumerate(modules):
        name_pointer = first + number * _MODULE_WORDS + _DATA_WORDS
        words += struct.pack("<HHI", INTERNAL, module.member, 0)
        for offset, content in enumerate((module.name.encode() + b"\0", module.content)):
            here = name_pointer + offset
            words += _list_pointer(blobs_at + len(blobs) // _WORD - here - 1, _BYTES, len(content))
            blobs += content + bytes(-len(content) % _WORD)
        words += bytes(_WORD)  # a text that nobody reads keeps the slot of its ordinal
    segment = bytes(words + blobs)
    return struct.pack("<II", 0, len(segment) // _WORD) + segment


_DATA_WORDS = 1
_POINTERS = 3
_MODULE_WORDS = _DATA_WORDS + _POINTERS


def _struct_pointer(offset: int, *, data: int, pointers: int) -> bytes:
    return struct.pack("<iHH", offset << 2 | _STRUCT, data, pointers)


def _list_pointer(offset: int, size: int, count: int) -> bytes:
    """`count` is in words for a composite list, else in elements."""
    return struct.pack("<iI", offset << 2 | _LIST, count << 3 | size)
