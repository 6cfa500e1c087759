"""The edge carries the domain as it is, and rules can be tested only if the world comes in as an argument."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import overnight.domain

DOMAIN = Path(overnight.domain.__file__).parent
IMPURE = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "uuid"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


@pytest.mark.parametrize("path", sorted(DOMAIN.glob("*.py")), ids=lambda path: path.stem)
def test_the_domain_imports_only_itself_and_the_pure_part_of_the_standard_library(path: Path) -> None:
    for name in imported(path):
        top = name.partition(".")[0]
        assert name.startswith("overnight.domain.") or top in sys.stdlib_module_names, name
        assert top not in IMPURE, name
