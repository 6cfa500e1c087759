"""A missing tool (bubblewrap, namespaces, unzip) skips a test on a laptop and fails it in CI."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which counts as a failure: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def edge_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The edge in real workerd, once for all tests of a run, and the settings of a worker for it."""
    if which("npm") is None:
        pytest.skip("the edge needs node and npm")
    directory = tmp_path_factory.mktemp("edge")
    settings, log = directory / "dev.env", directory / "wrangler.log"
    process = subprocess.Popen(
        [
            sys.executable,
            ROOT / "edge" / "run.py",
            "--port",
            "0",
            "--settings",
            settings,
            "--log",
            log,
            "--tend",
            "4",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("edge: "), log.read_text() if log.exists() else ""
            lines = (line for line in settings.read_text().splitlines() if not line.startswith("#"))
            yield {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    """Whatever it left behind: they are in the group that was made for it."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
