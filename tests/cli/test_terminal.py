"""What needs a process of its own: signals, and a real terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OVERNIGHT = Path(sys.executable).parent / "overnight"
SECONDS = 30


def begun(scripted: Any, data: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """`overnight WORDS` once it has shown the first tool call, and the job's id."""
    process = subprocess.Popen(
        [OVERNIGHT, *words, "--url", scripted.url, "--data", str(data)],
        env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    job = ""
    for line in process.stdout:
        job = line.split()[1] if line.startswith("job ") else job
        if line.startswith("● Bash"):
            return process, job
    raise AssertionError(process.communicate()[1])


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_come_back(
    overnight: Any, scripted: Any, tmp_path: Path
) -> None:
    process, job = begun(scripted, tmp_path, "run", "wait")
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert f"overnight logs -f {job}" in complaint
    assert f"overnight cancel {job}" in complaint
    assert "Traceback" not in complaint
    assert json.loads(overnight("status", job, "--json").stdout)["status"] == "processing"
    assert overnight("cancel", job).exit_code == 0
    assert overnight("logs", "-f", job).exit_code == 3


def test_a_job_that_is_cancelled_from_elsewhere_ends_the_run_with_3(
    overnight: Any, scripted: Any, tmp_path: Path
) -> None:
    process, job = begun(scripted, tmp_path, "run", "wait")
    assert overnight("cancel", job).exit_code == 0
    process.communicate(timeout=SECONDS)
    assert process.returncode == 3


def test_output_that_nobody_reads_is_no_traceback(scripted: Any, tmp_path: Path) -> None:
    command = f"{OVERNIGHT} jobs --limit 1 --url {scripted.url} --data {tmp_path} | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert "Traceback" not in done.stderr


def on_terminal(*command: str) -> tuple[int, str]:
    """Exit status and all that was written to a terminal."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        command, stdout=other, stderr=other, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(other)
    written = b""
    try:
        while piece := os.read(main, 65536):
            written += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(main)
    return process.wait(SECONDS), written.decode()


def test_a_terminal_gets_colours_and_a_moving_line(scripted: Any, tmp_path: Path) -> None:
    status, written = on_terminal(str(OVERNIGHT), "run", "x", "--url", scripted.url, "--data", str(tmp_path))
    assert status == 0
    assert "\x1b[36m● Bash" in written
    assert "\x1b[2K" in written
    assert "safe\\x1b[31m\\u202eevil" in written


@pytest.mark.parametrize("words", [("jobs",), ("run", "x", "--json")])
def test_elsewhere_there_is_nothing_but_text(overnight: Any, words: tuple[str, ...]) -> None:
    assert "\x1b" not in overnight(*words).output
