"""What the files of `deploy/` name is there: settings, packages, ignored paths."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".lock")
NOT_OURS = {"CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"}
"""Wrangler reads these too, where no setting of ours is meant."""


def pins(path: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", [*FILES, ROOT / "docs" / "deploy.md"], ids=lambda path: path.name)
def test_every_setting_that_it_names_is_one(path: Path) -> None:
    known = set(
        re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    )
    named = set(
        re.findall(
            r"\b(?:OVERNIGHT|ANTHROPIC|SUPABASE|CLOUDFLARE|AWS)_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()
        )
    )
    assert named - known - NOT_OURS == set()


def test_the_image_has_the_versions_that_are_tested() -> None:
    assert pins(ROOT / "deploy" / "requirements.lock") <= pins(ROOT / "requirements-dev.lock")


def test_the_two_ignore_files_are_the_same() -> None:
    ignored = (ROOT / ".containerignore").read_text()
    assert (ROOT / "deploy" / "Containerfile.dockerignore").read_text() == ignored
