"""What the files of `deploy/` name is there: settings, packages, ignored paths."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # as in test_image.py

from overnight.deploying.kept import worker_text

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


def test_a_worker_in_kubernetes_is_as_confined_as_the_service() -> None:
    service, worker = (
        pod_of(ROOT / "deploy" / name) for name in ("kubernetes.yaml", "kubernetes-worker.yaml")
    )
    for place in ("securityContext", "terminationGracePeriodSeconds", "automountServiceAccountToken"):
        assert worker[place] == service[place]
    [theirs], [ours] = service["containers"], worker["containers"]
    for place in ("image", "securityContext", "resources", "volumeMounts"):
        assert ours[place] == theirs[place]


def pod_of(path: Path) -> Any:
    documents = yaml.safe_load_all(path.read_text())
    [pod] = [each["spec"]["template"]["spec"] for each in documents if "template" in each["spec"]]
    return pod


def test_the_settings_of_a_worker_can_be_written_without_quotes(tmp_path: Path) -> None:
    """By the command of docs/deploy.md, from the file that a deployment writes."""
    values = {"OVERNIGHT_KEYS": '[{"name":"it\'s"}]', "OVERNIGHT_LEDGER_TOKEN": "a=b"}
    (tmp_path / "worker.env").write_text(worker_text(values))
    [command] = re.findall(r"^sed -n .*$", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "worker.plain").read_text().splitlines() == [
        'OVERNIGHT_KEYS=[{"name":"it\\u0027s"}]',
        "OVERNIGHT_LEDGER_TOKEN=a=b",
    ]


def test_the_two_ignore_files_are_the_same() -> None:
    ignored = (ROOT / ".containerignore").read_text()
    assert (ROOT / "deploy" / "Containerfile.dockerignore").read_text() == ignored
