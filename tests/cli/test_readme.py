"""What the README and the quickstart say is done here, word by word, on a service of their own."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SERVE = ".venv/bin/overnight serve --rehearsal\n"
SECONDS = 120


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """Somebody at a fresh clone who types what a page says; only the port is another one."""

    directory: Path
    port: int
    known: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        mine = {"OVERNIGHT_PORT": str(self.port), "OVERNIGHT_DATA": str(self.directory / "data")}
        return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.directory), **mine, **self.known}

    def types(self, language: str, text: str) -> str:
        """What came of it; the ids of a first answer are kept as `$JOB` and `$SESSION`."""
        text = text.replace(":8080", f":{self.port}").replace("make demo", "make -o .venv/.installed demo")
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [str(BIN / "python"), "-c"]
        done = subprocess.run(
            [*command, text],
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self) -> subprocess.Popen[str]:
        """The service that the page says to start."""
        command = SERVE.replace(".venv/bin/overnight", str(BIN / "overnight")).split()
        with (self.directory / "stderr.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        for line in process.stdout:
            if line == f"overnight is ready at http://127.0.0.1:{self.port}\n":
                return process
        raise AssertionError((self.directory / "stderr.log").read_text())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    for name in ("Makefile", "scripts", "src", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(BIN.parent)
    reader = Reader(tmp_path, free_port())
    service = reader.start()
    yield reader
    service.terminate()
    assert service.wait(60) == 0
    service.communicate()


def submitted(reader: Reader) -> dict[str, Any]:
    """The newest job."""
    return dict(json.loads(reader.types("sh", ".venv/bin/overnight jobs --limit 1 --json"))[0])


def test_the_readme_is_true(reader: Reader) -> None:
    said: list[str] = []
    for language, text in blocks("README.md"):
        if language == "json":
            answer = json.loads(said[-1])
            assert list(answer) == list(json.loads(text))
            assert answer["status"] == json.loads(text)["status"]
            reader.known = {"JOB": answer["job_id"], "SESSION": answer["session_id"]}
        elif text != SERVE:
            said.append(reader.types(language, text))
    demo, _, watched, python, shell = said
    assert "Everything above is true: it was checked." in demo
    assert "event: job.completed" in watched
    assert '"status":"completed"' in watched
    assert "job.completed" in python
    assert "✓ completed" in shell
    assert reader.known["SESSION"] in shell
    for zipped in ("session.zip", "primes.zip"):
        assert (reader.directory / zipped).stat().st_size > 0
    assert (reader.directory / ".demo" / "archives").is_dir()


def test_the_quickstart_is_true(reader: Reader) -> None:
    for language, text in blocks("docs/quickstart.md"):
        if text != SERVE:
            reader.types(language, text)
        if "overnight run" in text:
            reader.known = {"SESSION": submitted(reader)["session_id"]}
    assert submitted(reader)["status"] == "completed"
    assert (reader.directory / "session.zip").stat().st_size > 0
