"""The packer of the Pyodide bundle. That workerd takes what it makes, every other test here shows."""

import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import pytest

EDGE = Path(__file__).parents[2] / "edge"
GLUE = (
    "new WebAssembly.Module(a)" * 4
    + "crypto.getRandomValues(view)"
    + "function loadLibData(){old()}"
    + "export default _createPyodideModule;"
)


@pytest.fixture(scope="module")
def bundle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edge_bundle", EDGE / "bundle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_glue_calls_what_workerd_allows(bundle: ModuleType) -> None:
    edited = bundle.edited(GLUE)
    assert "new WebAssembly.Module" not in edited
    assert edited.count("newWasmModule(a)") == 4
    assert "getRandomValues(Module,view)" in edited
    assert "export { _createPyodideModule };" in edited


def test_another_version_of_pyodide_is_noticed(bundle: ModuleType) -> None:
    with pytest.raises(ValueError, match="another version"):
        bundle.edited(GLUE + "new WebAssembly.Module(b)")


def test_the_message_is_cap_n_proto(bundle: ModuleType) -> None:
    """Read back by the rules of the encoding: framing, root, composite list, and the pointers of each module."""
    contents = [b"abc", b"", b"12345678"]
    modules = [bundle.Module(f"m{n}", n, content) for n, content in enumerate(contents)]
    message = bundle.message(modules)
    assert struct.unpack_from("<II", message) == (0, len(message) // 8 - 1)
    segment = message[8:]
    assert struct.unpack_from("<iHH", segment) == (0, 0, 1)  # the root: no data, one pointer, right behind it
    assert struct.unpack_from("<iI", segment, 8) == (1, 12 << 3 | 7)
    assert struct.unpack_from("<iHH", segment, 16) == (3 << 2, 1, 3)
    for number, module in enumerate(modules):
        at = 24 + number * 32
        assert struct.unpack_from("<HH", segment, at) == (2, number)
        assert pointed(segment, at + 8) == module.name.encode() + b"\0"
        assert pointed(segment, at + 16) == module.content


def pointed(segment: bytes, at: int) -> bytes:
    offset, size = struct.unpack_from("<iI", segment, at)
    start = at + 8 + (offset >> 2) * 8
    assert (offset & 3, size & 7) == (1, 2)
    return segment[start : start + (size >> 3)]
