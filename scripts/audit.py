"""Asks pip-audit whether a pinned dependency has a known vulnerability: `python scripts/audit.py`.

It fails when there is one. Where the question cannot be answered (no pip-audit, no index that knows advisories)
it says so loudly and does not fail: a machine without a network can still run the tests. pip-audit itself stays
green then (facts: security 10), so its words are read and not its exit status.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent.parent / "requirements.lock"
TIMEOUT_SECONDS = 300


def main() -> int:
    command = shutil.which("pip-audit", path=f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    if command is None:
        return skipped("pip-audit is not installed")
    try:
        dependencies = asked(command)
    except (ValueError, KeyError, subprocess.TimeoutExpired) as error:
        return skipped(f"no index answered ({type(error).__name__})")
    unknown = [one["name"] for one in dependencies if "skip_reason" in one]
    if unknown or not dependencies:
        skipped(f"nothing is known about {len(unknown)} of {len(dependencies)} packages")
    return judged(dependencies)


def asked(command: str) -> list[dict[str, Any]]:
    """Raises ValueError or KeyError if the answer is none, TimeoutExpired if it does not come."""
    question = [command, "--format", "json", "--progress-spinner", "off", "--disable-pip", "-r", str(LOCK)]
    answer = subprocess.run(question, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    return list(json.loads(answer.stdout)["dependencies"])


def judged(dependencies: list[dict[str, Any]]) -> int:
    found = [(one, flaw) for one in dependencies for flaw in one.get("vulns", ())]
    for one, flaw in found:
        fixed = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
        print(f"{one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}")
    if not found:
        print(f"audit: no known vulnerability in {sum('vulns' in one for one in dependencies)} packages")
    return 1 if found else 0


def skipped(why: str) -> int:
    print(
        f"\n*** AUDIT SKIPPED: {why}. The dependencies were NOT checked for advisories. ***\n",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
