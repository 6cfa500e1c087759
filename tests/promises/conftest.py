"""The promises are kept by the real service: its fixtures are those of tests/e2e."""

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).parent.parent / "e2e" / "conftest.py"
_spec = importlib.util.spec_from_file_location("overnight_e2e_fixtures", _path)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _fixtures
_spec.loader.exec_module(_fixtures)

start, service, e2e = _fixtures.start, _fixtures.service, _fixtures.e2e
