"""The commands of docs/deploy.md that back up a running service and restore it, as they stand there."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
OVERNIGHT = Path(sys.executable).parent / "overnight"


def block(words: str) -> str:
    """The only block of shell commands that has these words."""
    (found,) = [
        text for text in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if words in text
    ]
    return str(found)


def run_here(commands: str, home: Path, backup: Path) -> None:
    """The same commands, with the directories of this test."""
    for theirs, ours in (
        ("/opt/overnight/bin/python", sys.executable),
        ("/var/lib/overnight", str(home)),
        ("/backup", str(backup)),
    ):
        commands = commands.replace(theirs, ours)
    subprocess.run(["sh", "-e", "-c", commands], check=True, timeout=60)


@contextlib.contextmanager
def service(home: Path) -> Iterator[Mapping[str, str]]:
    """A service on `data` in that directory; yields the environment in which commands find it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OVERNIGHT_DATA": str(home / "data"),
        "OVERNIGHT_PORT": "0",
        "OVERNIGHT_REHEARSAL": "1",
        "OVERNIGHT_ISOLATION": "namespace",
    }
    with subprocess.Popen(
        [OVERNIGHT, "serve"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any("is ready" in line for line in process.stdout)
            yield environment
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def overnight(environment: Mapping[str, str], *words: str) -> str:
    done = subprocess.run(
        [OVERNIGHT, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_backup_of_a_running_service_restores_what_it_had(tmp_path: Path) -> None:
    old, new, backup = (tmp_path / name for name in ("old", "new", "backup"))
    for directory in (old, new, backup):
        directory.mkdir()
    with service(old) as environment:
        prompt = "Remember the blue whale.\nrehearsal: write note.txt hello\nrehearsal: answer kept"
        kept = json.loads(overnight(environment, "run", "--json", prompt))
        run_here(block("VACUUM INTO"), old, backup)
        later = json.loads(overnight(environment, "run", "--json", "x\nrehearsal: answer too late"))
        run_here(block("VACUUM INTO"), old, backup)  # it can be done again over the last one
        lost = json.loads(overnight(environment, "run", "--json", "x\nrehearsal: answer lost"))

    run_here(block("-xpf"), new, backup)
    secret = "webhook-secret"
    assert (new / "data" / secret).read_text() == (old / "data" / secret).read_text()
    with service(new) as environment:
        for job in (kept, later):
            assert json.loads(overnight(environment, "status", "--json", job["job_id"])) == job
        with pytest.raises(AssertionError):
            overnight(environment, "status", lost["job_id"])
        prompt = "x\nrehearsal: bash cat note.txt\nrehearsal: recall"
        on = json.loads(overnight(environment, "run", "--json", "--session", kept["session_id"], prompt))
    assert on["status"] == "completed"
    assert "Remember the blue whale." in on["result"]
