"""A missing tool (bubblewrap, namespaces, unzip) skips a test on a laptop and fails it in CI."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest


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
