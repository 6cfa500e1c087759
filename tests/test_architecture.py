"""The arrows between the packages point down, and only where the tables here say.

A module that needs what its layer may not import is in the wrong layer, or is to be given it: as an argument, or
behind a port. A table changes with its reason in docs/decisions/.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "overnight"

MAY_IMPORT = {
    "domain": {"domain"},
    "ports": {"ports", "domain"},
    "archive": {"archive"},
    "serving": set(),
    "resolving": set(),
    "threads": set(),
    "rehearsal": {"rehearsal", "serving"},
    "client": {"client", "domain"},
    "settings": {"settings", "domain"},
    "flows": {"flows", "threads", "archive", "ports", "domain"},
    "adapters": {"adapters", "resolving", "threads", "ports", "domain", "archive"},
    "agent": {"agent", "archive", "serving", "resolving", "settings", "ports", "domain"},
    "api": {"api", "flows", "archive", "ports", "domain"},
    "worker": {"worker", "flows", "ports", "domain"},
    "wiring": {
        "wiring",
        "api",
        "worker",
        "flows",
        "agent",
        "adapters",
        "archive",
        "rehearsal",
        "serving",
        "settings",
        "ports",
        "domain",
    },
    "deploying": {
        "deploying",
        "wiring",
        "adapters",
        "archive",
        "flows",
        "client",
        "settings",
        "ports",
        "domain",
    },
    "cli": {
        "cli",
        "deploying",
        "wiring",
        "client",
        "rehearsal",
        "agent",
        "archive",
        "settings",
        "ports",
        "domain",
    },
}
ONLY = {
    "apsw": {"adapters/sqlite"},
    "claude_agent_sdk": {"agent", "cli/doctor"},
    "subprocess": {"agent", "archive/helper", "cli/doctor"},
    "httpcore": {"adapters/webhooks"},
    "obstore": {"adapters/s3"},
    "starlette": {"api", "agent/gateway", "rehearsal"},
    "uvicorn": {"serving"},
    "typer": {"cli"},
    "cloudflare": {"adapters/cloudflare/client", "adapters/cloudflare/queue", "deploying/account"},
    "rich": {"cli"},
    "pydantic": {"settings", "wiring", "deploying/deploy"},
    "pydantic_settings": {"settings"},
}
THE_WORLD = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "uuid"}
"""What no rule asks for: it is told the time, ids and chances."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").as_posix()


def imports(text: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a module imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def faults(name: str, where: str) -> Iterator[str]:
    """What is wrong with importing `name` in the module `where`, and what to do instead."""
    layer, package = where.partition("/")[0], name.partition(".")[0]
    if name.startswith("."):
        yield f"{name}: a relative import shows no layer. Write it from `overnight` on"
    elif name.startswith("overnight.") and layer not in {"__init__", "__main__"}:
        yield from faults_between_layers(name, where)
    elif package in ONLY and not where.startswith(tuple(ONLY[package])):
        yield f"{package} belongs to {sorted(ONLY[package])}. Ask one of them for what it is to do"
    elif layer in {"domain", "ports"} and package not in sys.stdlib_module_names:
        yield f"{layer} imports {name}: it may need nothing but the standard library, since the edge carries it"
    if layer == "domain" and package in THE_WORLD:
        yield f"a rule asks {package}: it can only be tested with what it is told. Take it as an argument"


def faults_between_layers(name: str, where: str) -> Iterator[str]:
    (layer, *inside), (target, *rest) = where.split("/"), name.split(".")[1:]
    if layer not in MAY_IMPORT:
        yield f"{layer} is a new layer: MAY_IMPORT has to say what it may import, and who may import it"
    elif target not in MAY_IMPORT[layer]:
        yield f"{layer} must not import {name}, only {sorted(MAY_IMPORT[layer])}"
    elif layer == target == "adapters" and rest[:1] != inside[:1]:
        yield f"{where} imports {name}: adapters are strangers. What both need goes to ports or domain"


@pytest.mark.parametrize("path", modules(), ids=place)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    found = [
        f"{path.relative_to(SOURCE.parents[1])}:{line}: {fault}"
        for line, name in imports(path.read_text())
        for fault in faults(name, place(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("domain/made_up", "from overnight.flows import submit"),
        ("domain/made_up", "from overnight import flows"),
        ("flows/made_up", "import overnight.adapters.memory"),
        ("flows/made_up", "from ..adapters import memory"),
        ("flows/made_up", "from . import submit"),
        ("flows/made_up", "import apsw"),
        ("adapters/memory", "from overnight.adapters.sqlite.store import SqliteStore"),
        ("adapters/memory", "from overnight.adapters import sqlite"),
        ("ports/made_up", "from httpx import Client"),
        ("domain/made_up", "from time import time"),
        ("new/made_up", "from overnight.domain import job"),
    ],
)
def test_an_import_that_points_up_or_aside_is_noticed(where: str, line: str) -> None:
    assert [fault for _, name in imports(line) for fault in faults(name, where)] != []


def test_there_are_no_cycles() -> None:
    known = {
        f"overnight.{place(path).replace('/', '.').removesuffix('.__init__')}": path for path in modules()
    }
    graph = {
        module: {
            target
            for _, name in imports(path.read_text())
            for target in (name, name.rpartition(".")[0])
            if target in known and target != module
        }
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in graph[name]:
            if not name.startswith(f"{target}."):
                visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())
