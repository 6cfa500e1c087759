"""The image without a container engine: the build stage of the Containerfile, run here in a directory of its own."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 60
BUILD_SECONDS = 300
INSTALLED = "/opt/overnight"


@dataclass(frozen=True)
class Stage:
    """One stage of the Containerfile: its instructions in order, `FROM` left out."""

    instructions: list[tuple[str, str]]

    def of(self, name: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == name]

    def command(self, name: str) -> list[str]:
        """The words of an instruction in its exec form."""
        (text,) = self.of(name)
        return [str(word) for word in json.loads(text[text.index("[") :])]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for text in self.of("ENV") for pair in text.split())


def stages() -> list[Stage]:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    found: list[Stage] = []
    for line in filter(str.strip, lines.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append(Stage([]))
        elif found:
            found[-1].instructions.append((name, " ".join(rest.split())))
    return found


@dataclass(frozen=True)
class Image:
    """What the Containerfile makes, below `root` in place of `/`."""

    root: Path

    def here(self, text: str) -> str:
        return re.sub(r"(?<![\w./])/(opt/overnight|wheels|var/lib/overnight)", rf"{self.root}/\1", text)

    def call(self, *words: str) -> list[str]:
        """The command of a container that was started with these arguments."""
        return [self.here(word) for word in stages()[-1].command("ENTRYPOINT")] + list(words)

    def environment(self, data: Path, **more: str) -> dict[str, str]:
        """A container's, with the data at another place and a free port."""
        mine = {"OVERNIGHT_DATA": str(data), "OVERNIGHT_PORT": str(free_port()), "HOME": str(data.parent)}
        rehearsed = {"OVERNIGHT_REHEARSAL": "1", "OVERNIGHT_STOP_GRACE_SECONDS": "3"}
        return {"PATH": os.environ["PATH"], **stages()[-1].environment, **mine, **rehearsed, **more}


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Takes half a minute: every package is fetched and checked against its hash, as in a build."""
    root = tmp_path_factory.mktemp("image")
    for directory in (root, *root.parents[:2]):
        directory.chmod(directory.stat().st_mode | 0o011)  # users of runs pass it, as they pass /opt
    made = Image(root)
    subprocess.run([sys.executable, "-m", "venv", str(root / "base")], check=True, timeout=BUILD_SECONDS)
    build = root / "build"
    build.mkdir()
    for name, text in stages()[0].instructions:
        if name == "COPY":
            *sources, target = text.split()
            for source in sources:
                copy(ROOT / source, build / target, source)
        elif name == "RUN":
            run_in(build, made.here(text), root / "base" / "bin")
    return made


def copy(source: Path, target: Path, name: str) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        shutil.copy(source, target / Path(name).name)


def run_in(directory: Path, command: str, base: Path) -> None:
    environment = {**os.environ, "PATH": f"{base}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Running:
    """A started command, and what it said until it was ready."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.said: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if " is ready" in line:
                return
        raise AssertionError((self.said, log.read_text()))

    def ended(self) -> int:
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[Running]:
    started = Running(command, environment, log)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.terminate()
        started.ended()


@dataclass(frozen=True)
class Deploy:
    """What tests share, since they import nothing from one another."""

    root: Path = ROOT
    stages = staticmethod(stages)
    running = staticmethod(running)


@pytest.fixture(scope="session")
def deploy() -> Deploy:
    return Deploy()
