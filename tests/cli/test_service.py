"""The commands with the real service in them, and without one beside them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

pytestmark = pytest.mark.e2e

OVERNIGHT = str(Path(sys.executable).parent / "overnight")
SECONDS = 60


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    mine = {"OVERNIGHT_DATA": str(tmp_path / "data"), "OVERNIGHT_REHEARSAL": "1", "HOME": str(tmp_path)}
    return {"PATH": os.environ["PATH"], "OVERNIGHT_STOP_GRACE_SECONDS": "3", **mine}


def call(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OVERNIGHT, *words], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


Begin = Callable[..., tuple[subprocess.Popen[str], list[str]]]


@pytest.fixture
def begin(environment: dict[str, str]) -> Iterator[Begin]:
    """`begin(*words, said=...)`: the command, once it has printed a line that begins so, and all that it printed.
    Of those that still run at the end of the test nothing is left."""
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str, said: str) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [OVERNIGHT, *words],
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith(said):
                return process, lines
        raise AssertionError((lines, process.communicate()))

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_without_a_service_run_starts_one_for_the_call_and_reading_runs_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = call(environment, "run", "rehearsal: bash echo hello\nrehearsal: answer fine", "--json")
    job = json.loads(done.stdout)
    assert (done.returncode, job["status"], job["result"]) == (0, "completed", "fine"), done.stderr
    assert not (tmp_path / "data" / "service.json").exists()
    assert json.loads(call(environment, "status", job["job_id"], "--json").stdout) == job
    assert "● Bash  echo hello" in call(environment, "logs", job["job_id"]).stdout
    saved = tmp_path / "session.zip"
    assert call(environment, "sessions", "download", job["session_id"], "-o", str(saved)).returncode == 0
    assert saved.stat().st_size > 0


def test_without_a_service_and_a_key_nothing_is_submitted(environment: dict[str, str]) -> None:
    keyless = {**environment, "OVERNIGHT_REHEARSAL": "0"}
    done = call(keyless, "run", "hello")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ANTHROPIC_API_KEY is not set" in done.stderr
    assert call(keyless, "jobs").stdout == "no jobs\n"


def test_a_taken_port_is_told_in_words(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = call(environment, "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Address already in use. Nothing was changed. If the port is taken" in done.stderr


def test_ctrl_c_with_a_service_of_its_own_hands_the_job_back_and_a_later_one_goes_on(
    environment: dict[str, str], begin: Begin, tmp_path: Path
) -> None:
    prompt = "rehearsal: bash test -e again || { touch again; tail -f /dev/null; }\nrehearsal: answer went on"
    process, lines = begin("run", prompt, said="● Bash")
    job_id = next(line.split()[1] for line in lines if line.startswith("job "))
    asyncio.run(until(lambda: any((tmp_path / "data").rglob("again"))))
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "overnight serve" in complaint
    assert "Traceback" not in complaint
    waiting = json.loads(call(environment, "status", job_id, "--json").stdout)
    assert (waiting["status"], waiting["attempt"]) == ("queued", 1)
    done = call(environment, "logs", "-f", job_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ completed" in done.stdout


def test_serve_is_found_by_its_data_directory_and_ends_cleanly(
    environment: dict[str, str], begin: Begin
) -> None:
    service, banner = begin("serve", "--port", "0", said="overnight is ready at http://127.0.0.1:")
    assert any("isolation" in line for line in banner)
    failed = call(environment, "run", "rehearsal: error 401", "--json")
    assert (failed.returncode, json.loads(failed.stdout)["error"]["code"]) == (1, "authentication")
    second, _ = begin("worker", said="overnight worker is ready")
    for process in (second, service):
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        assert "Traceback" not in complaint


def test_what_keeps_a_service_from_starting_is_said_in_words(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(environment, "serve", "--port", str(port))
        assert (done.returncode, "--port" in done.stderr) == (1, True)
    public = call(environment, "serve", "--host", "0.0.0.0", "--port", "0")
    assert (public.returncode, "OVERNIGHT_HOST" in public.stderr) == (2, True)
    (tmp_path / "file").touch()
    nowhere = call(environment, "serve", "--port", "0", "--data", str(tmp_path / "file" / "below"))
    assert (nowhere.returncode, "--data" in nowhere.stderr) == (1, True)
    isolated = call({**environment, "OVERNIGHT_ISOLATION": "namespace", "PATH": "/nonexistent"}, "serve")
    assert (isolated.returncode, "bubblewrap" in isolated.stderr) == (1, True)
    for each in (done, public, nowhere, isolated):
        assert "Traceback" not in each.stderr


def test_with_a_key_a_public_address_is_served_and_a_revoked_one_is_noticed(
    environment: dict[str, str], begin: Begin
) -> None:
    key = json.loads(call(environment, "keys", "create", "--name", "k", "--json").stdout)
    service, lines = begin("serve", "--host", "0.0.0.0", "--port", "0", said="overnight is ready at")
    assert not [line for line in lines if key["key"] in line]
    assert call(environment, "jobs").returncode == 4
    mine = {**environment, "OVERNIGHT_API_KEY": key["key"]}
    done = call(mine, "run", "rehearsal: answer fine", "--json")
    job = json.loads(done.stdout)
    assert (job["status"], job["owner"]) == ("completed", key["owner"]), done.stderr
    second = json.loads(call(environment, "keys", "create", "--name", "new", "--json").stdout)
    theirs = {**environment, "OVERNIGHT_API_KEY": second["key"]}
    asyncio.run(until(lambda: call(theirs, "jobs").returncode == 0))
    assert call(theirs, "status", job["job_id"]).returncode == 4
    assert call(environment, "keys", "revoke", key["key_id"]).returncode == 0
    asyncio.run(until(lambda: call(mine, "jobs").returncode == 4))
    service.send_signal(signal.SIGTERM)
    _, complaint = service.communicate(timeout=SECONDS)
    assert (service.returncode, key["key"] in complaint) == (0, False)


def test_the_rehearsal_can_be_served_alone(begin: Begin) -> None:
    process, lines = begin("rehearsal", "--port", "0", said="use it:")
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:" in lines[-1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0


def test_doctor_tells_what_is_missing_and_never_shows_a_key(environment: dict[str, str]) -> None:
    good = call(environment, "doctor", "--json")
    checks: dict[str, Any] = {check["name"]: check for check in json.loads(good.stdout)}
    assert good.returncode == 0, good.stdout
    assert checks["Claude Code"]["verdict"] == "good"
    assert checks["Upstream"]["verdict"] == "note"
    real = {**environment, "OVERNIGHT_REHEARSAL": "0", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}
    bad = call({**real, "ANTHROPIC_API_KEY": "canary-key"}, "doctor")
    assert bad.returncode == 1
    assert "✓ API key: present" in bad.stdout
    assert "✗ Upstream" in bad.stdout
    assert "canary-key" not in bad.stdout + bad.stderr
    missing = call({**real, "OVERNIGHT_CONCURENCY": "3"}, "doctor").stdout
    assert "✗ API key: missing" in missing
    assert "OVERNIGHT_CONCURENCY" in missing
    assert "Did you mean OVERNIGHT_CONCURRENCY?" in missing


def test_doctor_attacks_every_tier(environment: dict[str, str]) -> None:
    done = call(environment, "doctor", "--attack", "--json")
    assert done.returncode == 0, done.stderr
    found = {one["tier"]: one for one in json.loads(done.stdout)}
    assert list(found) == ["namespace", "landlock", "uid", "none"]
    assert found["landlock"]["holds"]
    assert found["landlock"]["properties"]["files"]
    assert not found["none"]["properties"]["files"]
    assert "BROKEN" in call(environment, "doctor", "--attack").stdout
