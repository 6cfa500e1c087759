"""A missing tool (bubblewrap, namespaces, unzip) skips a test on a laptop and fails it in CI."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """Where users of runs may pass, as they may where a service of root keeps its data: pytest makes these
    directories for itself alone."""
    for directory in (tmp_path, *tmp_path.parents):
        status = directory.stat()
        if status.st_uid == os.geteuid() and directory.name.startswith(("pytest-", "pt-", "test_")):
            directory.chmod(status.st_mode | 0o011)
    return tmp_path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which counts as a failure: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was only tried on a stand-in is said in every run."""
    if not {"OVERNIGHT_TEST_SUPABASE_URL", "OVERNIGHT_TEST_SUPABASE_KEY"} <= os.environ.keys():
        terminalreporter.write_line(
            "NOT TRIED ON A REAL SUPABASE PROJECT: set OVERNIGHT_TEST_SUPABASE_URL and OVERNIGHT_TEST_SUPABASE_KEY "
            "(the contract suite of archive stores ran on the stand-in only)",
            yellow=True,
            bold=True,
        )


StartEdge = Callable[..., AbstractContextManager[Mapping[str, str]]]


@pytest.fixture(scope="session")
def start_edge() -> StartEdge:
    """`with start_edge(directory, *options, key=...)`: an edge in real workerd, and a worker's settings for it."""
    if which("npm") is None:
        pytest.skip("the edge needs node and npm")
    return _running_edge


@pytest.fixture(scope="session")
def edge_settings(
    start_edge: StartEdge, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, str]]:
    """One edge for all tests of a run."""
    with start_edge(tmp_path_factory.mktemp("edge"), "--tend", "4") as settings:
        yield settings


@contextmanager
def _running_edge(directory: Path, *options: str, key: str | None = None) -> Iterator[Mapping[str, str]]:
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
            *options,
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
        env=os.environ | ({"KEY": key} if key else {}),
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
