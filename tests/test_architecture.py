"""The arrows between the packages point down, and only where this table says."""

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


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").as_posix()


@pytest.mark.parametrize("path", modules(), ids=place)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    layer = place(path).split("/")[0]
    if layer in {"__init__", "__main__"}:
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "overnight" and len(parts) > 1:
            assert parts[1] in MAY_IMPORT[layer], f"{layer} must not import {name}"
        elif parts[0] in ONLY:
            allowed = ONLY[parts[0]]
            assert any(place(path).startswith(home) for home in allowed), f"{parts[0]} belongs to {allowed}"


def test_the_domain_and_the_ports_need_nothing_but_the_standard_library() -> None:
    for path in [*(SOURCE / "domain").glob("*.py"), *(SOURCE / "ports").glob("*.py")]:
        for name in imports(path):
            top = name.split(".")[0]
            assert top == "overnight" or top in sys.stdlib_module_names, f"{place(path)} imports {name}"


def test_adapters_are_strangers_to_one_another() -> None:
    for path in (SOURCE / "adapters").rglob("*.py"):
        home = place(path).split("/")[1]
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["overnight", "adapters"] and len(parts) > 2:
                assert parts[2] == home, f"{place(path)} imports {name}"


def test_there_are_no_cycles() -> None:
    known = {
        f"overnight.{place(path).replace('/', '.').removesuffix('.__init__')}": path for path in modules()
    }
    graph = {name: {i for i in imports(path) if i in known and i != name} for name, path in known.items()}
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
