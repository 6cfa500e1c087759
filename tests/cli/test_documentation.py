"""docs/cli.md against the commands themselves, and the promise that commands start quickly."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from overnight.cli.exits import Exit
from overnight.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (overnight [a-z -]+)\n(.*?)(?=^###? |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, each in inner.items():
        yield from commands(each, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(app), "overnight"))


def options(command: Any) -> set[str]:
    """All spellings, without those that switch an option off again."""
    return {spelling for option in command.params for spelling in option.opts if spelling.startswith("-")} - {
        "--help",
        "-h",
    }


def test_every_command_has_its_section_and_every_section_its_command() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_names_the_options_that_there_are(name: str) -> None:
    named = set(re.findall(r"`(--?[a-z-]+)`", SECTIONS[name]))
    assert named == options(COMMANDS[name])


def test_every_exit_status_is_explained() -> None:
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == set(Exit)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_shows_all_of_it(overnight: Any, name: str) -> None:
    done = overnight(*name.split()[1:], "--help")
    assert done.exit_code == 0
    assert "Usage: " in done.stdout
    shown = "".join(done.stdout.split())
    for option in COMMANDS[name].params:
        assert "".join((option.help or "").split()) in shown, option.name


def test_version(overnight: Any) -> None:
    assert re.fullmatch(r"overnight \d+\.\d+\.\d+\S*\n", overnight("version").stdout)


SLOW = {"claude_agent_sdk", "uvicorn", "starlette", "apsw", "overnight.wiring"}


def test_a_command_that_finds_a_service_imports_neither_the_agent_nor_a_server(
    scripted: Any, tmp_path: Path
) -> None:
    words = ["jobs", "--url", scripted.url, "--data", str(tmp_path)]
    program = f"import sys; sys.argv[1:] = {words!r}\nfrom overnight.cli.main import app\n"
    program += "app(standalone_mode=False)\nprint(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stderr.split())
    assert "overnight.client" in loaded
    assert not loaded & SLOW
