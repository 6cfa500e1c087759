"""Sets up what the edge is made of: npm's workerd and Pyodide, the Worker's packages, and overnight itself.

Run it again at any time: what is up to date is left alone.
"""

import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import bundle

EDGE = Path(__file__).resolve().parent
ROOT = EDGE.parent
SOURCE = ROOT / "src" / "overnight"
PACKAGES = EDGE / "python_modules"
CACHE = EDGE / ".pyodide"
"""The bundle of Pyodide, and the wrapper that makes workerd read it."""

CARRIED = ("__init__.py", "threads.py", "domain", "ports", "flows", "archive", "api")
ADAPTERS = ("__init__.py", "system.py", "cloudflare")
WASM = (
    "--only-binary=:all: --implementation cp --python-version 3.14 --abi cp314 --abi none "
    "--platform pyemscripten_2026_0_wasm32 --platform any"
)
NEEDED_NODE = 22


def prepare() -> None:
    """Raises CalledProcessError, OSError, ValueError."""
    _npm()
    _packages()
    _bundle()
    carry()


def node() -> str:
    """The node that npm installed beside wrangler, else the machine's own."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    own = EDGE / "node_modules" / f"node-{sys.platform}-{machine}" / "bin" / "node"
    found = str(own) if own.exists() else shutil.which("node")
    if found is None:
        raise FileNotFoundError(f"the edge needs node {NEEDED_NODE} or later, and npm: install them first")
    return found


def workerd() -> Path:
    found = next((EDGE / "node_modules" / "@cloudflare").glob("workerd-*/bin/workerd"), None)
    if found is None:
        raise FileNotFoundError("npm brought no workerd for this machine")
    return found


def carry() -> None:
    """Give the Worker the parts of overnight that it runs, as they are. Files that are the same stay untouched."""
    target = PACKAGES / "overnight"
    wanted = {
        target / path.relative_to(SOURCE): path.read_bytes()
        for part in (*CARRIED, *(f"adapters/{name}" for name in ADAPTERS))
        for path in _files(SOURCE / part)
    }
    wanted[PACKAGES / "overnight_version.py"] = f'VERSION = "{_version()}"\n'.encode()
    for path, content in wanted.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in target.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def _files(part: Path) -> list[Path]:
    found = part.rglob("*") if part.is_dir() else [part]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _npm() -> None:
    lock = EDGE / "package-lock.json"
    if _stale(EDGE / "node_modules" / ".ready", lock):
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(
                f"the edge needs node {NEEDED_NODE} or later, and npm: install them first"
            )
        subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=EDGE,
            check=True,
        )
        _note(EDGE / "node_modules" / ".ready", lock)


def _packages() -> None:
    listed = EDGE / "requirements.txt"
    if _stale(PACKAGES / ".ready", listed):
        shutil.rmtree(PACKAGES, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        target = ["--require-hashes", "--target", str(PACKAGES), *WASM.split(), "-r", str(listed)]
        subprocess.run([*install, *target], check=True)
        _note(PACKAGES / ".ready", listed)


def _bundle() -> None:
    pyodide = EDGE / "node_modules" / "pyodide"
    if _stale(CACHE / ".ready", pyodide / "package.json"):
        CACHE.mkdir(exist_ok=True)
        (CACHE / bundle.NAME).write_bytes(bundle.pack(pyodide))
        _note(CACHE / ".ready", pyodide / "package.json")
    wrapper = CACHE / "workerd"
    wrapper.write_text(_WRAPPER.format(workerd=workerd(), cache=CACHE))
    wrapper.chmod(0o755)


_WRAPPER = """#!/bin/sh
# miniflare has no option for the directory of the bundle.
[ "$1" = serve ] || exec "{workerd}" "$@"
shift
exec "{workerd}" serve "--pyodide-bundle-disk-cache-dir={cache}" "$@"
"""


def _stale(stamp: Path, source: Path) -> bool:
    return not stamp.exists() or stamp.read_bytes() != source.read_bytes()


def _note(stamp: Path, source: Path) -> None:
    stamp.write_bytes(source.read_bytes())


if __name__ == "__main__":
    if shutil.which("npm") is None:  # as scripts/packages.sh: whatever needs it says so itself
        print(
            "note: npm is missing, so the edge cannot be set up (install node 22 or later)", file=sys.stderr
        )
    else:
        prepare()
