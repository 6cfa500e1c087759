"""The promises about a run are kept with the real Claude Code: fixtures of tests/agent and of tests/e2e."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _fixtures_of(package: str) -> ModuleType:
    path = Path(__file__).parent.parent / package / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"overnight_{package}_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_agent, _e2e = _fixtures_of("agent"), _fixtures_of("e2e")
stage = _agent.stage
start, service, e2e = _e2e.start, _e2e.service, _e2e.e2e
