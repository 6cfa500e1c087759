"""The audit of dependencies fails for an advisory, and is loud where it could not ask."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "audit.py"
GOOD = {"name": "httpx", "version": "0.28.1", "vulns": []}
BAD = {"name": "h11", "version": "0.1", "vulns": [{"id": "PYSEC-2025-1", "fix_versions": ["0.2"]}]}
UNKNOWN = {"name": "apsw", "skip_reason": "Dependency not found and could not be audited"}


def audit(folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
    """With a pip-audit on the PATH that gives this answer."""
    command = folder / "pip-audit"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    command.chmod(0o755)
    path = f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT)], env={"PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("answer", "status", "loud"),
    [
        (json.dumps({"dependencies": [GOOD]}), 0, False),
        (json.dumps({"dependencies": [GOOD, BAD]}), 1, False),
        (json.dumps({"dependencies": [GOOD, UNKNOWN]}), 0, True),
        (json.dumps({"dependencies": [BAD, UNKNOWN]}), 1, True),
        (json.dumps({"dependencies": []}), 0, True),
        ("connection refused", 0, True),
        ("", 0, True),
    ],
)
def test_an_advisory_fails_and_silence_is_loud(answer: str, status: int, loud: bool, tmp_path: Path) -> None:
    done = audit(tmp_path, answer)
    assert done.returncode == status, done.stderr
    assert ("AUDIT SKIPPED" in done.stderr) is loud
    assert ("PYSEC-2025-1, fixed in 0.2" in done.stdout) is (status == 1)
