"""What the README and the quickstart say is done here, word by word, on a service of their own."""

import json
import os
import re
import select
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
SERVE = "overnight serve --rehearsal"
REMOVE = "rm -rf ~/.local/share/overnight"
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
    service: subprocess.Popen[str] | None = None

    def environment(self) -> dict[str, str]:
        path = f"{self.directory / '.venv' / 'bin'}:{os.environ['PATH']}"  # as after `activate`
        mine = {"PATH": path, "HOME": str(self.directory), "OVERNIGHT_PORT": str(self.port)}
        return mine | self.known

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

    def start(self, line: str = SERVE) -> None:
        """The service that a page says to start, until it is ready."""
        command = ["bash", "-c", f"exec env {line}"]
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
                self.service = process
                return
        raise AssertionError((self.directory / "stderr.log").read_text())

    def stop(self) -> None:
        if self.service is not None:
            self.service.terminate()
            assert self.service.wait(60) == 0
            self.service.communicate()
            self.service = None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Reader]:
    """A reader who has started nothing yet."""
    for name in ("Makefile", "scripts", "src", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(BIN.parent)
    reader = Reader(tmp_path, free_port())
    yield reader
    reader.stop()


@pytest.fixture
def reader(clone: Reader) -> Reader:
    clone.start()
    return clone


def submitted(reader: Reader) -> dict[str, Any]:
    """The newest job."""
    return dict(json.loads(reader.types("sh", "overnight jobs --limit 1 --json"))[0])


def test_the_readme_is_true(reader: Reader) -> None:
    said: list[str] = []
    for language, text in blocks("README.md"):
        if language == "json":
            answer = json.loads(said[-1])
            assert list(answer) == list(json.loads(text))
            assert answer["status"] == json.loads(text)["status"]
            reader.known = {"JOB": answer["job_id"], "SESSION": answer["session_id"]}
        elif SERVE not in text and REMOVE not in text:
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


def test_what_the_readme_removes_leaves_nothing(reader: Reader) -> None:
    [removal] = [text for _, text in blocks("README.md") if REMOVE in text]
    reader.types("sh", 'overnight run "Say hello."')
    reader.stop()
    data = reader.directory / ".local" / "share" / "overnight"
    assert (data / "overnight.db").is_file()
    reader.types("sh", removal)
    assert not data.exists()
    made = {path.name for path in reader.directory.iterdir() if not path.is_symlink()}
    assert made == {".local", "stderr.log"}


def test_the_receiver_of_webhooks_receives_one(clone: Reader) -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^<!-- tested: (\S+) -->\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    port = str(free_port())
    program = f"{tested['verify-by-hand']}\n\n{tested['receiver']}".replace("9000", port)
    (clone.directory / "receiver.py").write_text(program)
    serve, receive, run = tested["local"].replace("9000", port).splitlines()
    clone.start(serve)
    with subprocess.Popen(
        receive.split(), cwd=clone.directory, env=clone.environment(), stdout=subprocess.PIPE
    ) as receiver:
        try:
            clone.types("sh", run)
            assert receiver.stdout is not None
            assert select.select([receiver.stdout], [], [], SECONDS)[0], "no webhook came"
            told = json.loads(receiver.stdout.readline())
        finally:
            receiver.kill()
    assert (told["type"], told["job_id"]) == ("job.completed", submitted(clone)["job_id"])


def test_the_quickstart_is_true(reader: Reader) -> None:
    said = ""
    for language, text in blocks("docs/quickstart.md"):
        said = reader.types(language, text)
        if "overnight run" in text:
            reader.known = {"SESSION": submitted(reader)["session_id"]}
    assert "✓ completed" in said
    assert submitted(reader)["status"] == "completed"
    assert (reader.directory / "session.zip").stat().st_size > 0
    listed = reader.types("sh", "overnight sessions download $SESSION -o mine.zip; unzip -l mine.zip")
    assert "answer.py" in listed
