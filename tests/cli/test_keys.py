"""`overnight keys`, and the key that the other commands send."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer.testing

from overnight.cli.main import app
from overnight.domain.keys import parse_key
from overnight.domain.signature import parse_secret

UNKNOWN = "ovn_" + "a" * 8


def made(overnight: Any, *more: str) -> dict[str, Any]:
    done = overnight("keys", "create", "--name", "laptop", "--json", *more)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def listed(overnight: Any) -> list[dict[str, Any]]:
    return list(json.loads(overnight("keys", "list", "--json").stdout))


def test_a_key_is_made_without_a_service_and_shown_once(overnight: Any) -> None:
    key = made(overnight)
    assert parse_key(key["key"]).key_id == key["key_id"] == key["owner"]
    assert len(parse_secret(key["webhook_secret"])) == 32
    assert key["scopes"] == ["read", "submit"]
    [found] = listed(overnight)
    assert found["name"] == "laptop"
    for output in (overnight("keys", "list").output, overnight("keys", "list", "--json").output):
        assert key["key"] not in output
        assert key["webhook_secret"] not in output
        assert key["key_id"] in output


def test_the_key_is_not_in_the_data_directory(overnight: Any) -> None:
    key = made(overnight)
    secret = parse_key(key["key"]).secret.encode()
    files = [path for path in Path(overnight.data).rglob("*") if path.is_file()]
    assert any(key["key_id"].encode() in path.read_bytes() for path in files), "the rest of the key is there"
    assert not [path for path in files if secret in path.read_bytes()]


@pytest.mark.parametrize(
    "options",
    [
        ("--expires-in-days", "0"),
        ("--expires-in-days", "nan"),
        ("--expires-in-days", "1e9"),
        ("--daily-budget-usd", "nan"),
        ("--daily-budget-usd", "inf"),
    ],
)
def test_what_could_not_be_kept_to_makes_no_key(overnight: Any, options: tuple[str, ...]) -> None:
    """A key that cannot be shown would shut the service to everybody."""
    done = overnight("keys", "create", "--name", "laptop", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert listed(overnight) == []


def test_all_that_can_be_said_about_a_key(overnight: Any) -> None:
    options = ("--scope", "admin", "--owner", "team/a", "--expires-in-days", "1", "--max-running", "2")
    limits = (
        "--requests-per-minute",
        "5",
        "--max-queued",
        "7",
        "--daily-budget-usd",
        "1.5",
        "--model",
        "haiku",
    )
    key = made(overnight, *options, *limits)
    assert (key["scopes"], key["owner"]) == (["admin"], "team/a")
    assert key["limits"] == {
        "requests_per_minute": 5,
        "max_queued": 7,
        "max_running": 2,
        "daily_budget_usd": 1.5,
        "models": ["haiku"],
    }
    assert key["expires_at"] > key["created_at"]


def test_for_people(overnight: Any) -> None:
    done = overnight("keys", "create", "--name", "laptop")
    found = re.search(r"^OVERNIGHT_API_KEY=(\S+)$", done.stdout, re.MULTILINE)
    assert found is not None
    key_id = parse_key(found[1]).key_id
    assert re.search(
        rf"{key_id} +laptop +{key_id} +read,submit .* live$", overnight("keys", "list").stdout, re.MULTILINE
    )
    assert "is revoked" in overnight("keys", "revoke", key_id).stdout
    assert re.search(rf"{key_id} .* revoked$", overnight("keys", "list").stdout, re.MULTILINE)


def test_without_keys_the_list_says_what_that_means(overnight: Any) -> None:
    assert "no keys" in overnight("keys", "list").stdout


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("create", "--name", "x", "--owner", "a b"), 2),
        (("create", "--name", " "), 2),
        (("create", "--name", "x", "--scope", "all"), 2),
        (("revoke", "nonsense"), 2),
        (("revoke", UNKNOWN), 1),
        (("rotate-webhook-secret", UNKNOWN), 1),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    overnight: Any, words: tuple[str, ...], status: int
) -> None:
    done = overnight("keys", *words)
    assert done.exit_code == status
    assert "Traceback" not in done.output
    assert listed(overnight) == []


def test_a_webhook_secret_is_replaced_in_two_steps(overnight: Any) -> None:
    key = made(overnight)
    rotate = ("keys", "rotate-webhook-secret", key["key_id"])
    fresh = json.loads(overnight(*rotate, "--json").stdout)["webhook_secret"]
    assert fresh != key["webhook_secret"]
    again = overnight(*rotate)
    assert (again.exit_code, "--finish" in again.stderr) == (1, True)
    assert overnight(*rotate, "--finish").exit_code == 0
    assert "whsec_" in overnight(*rotate).stdout


def test_commands_on_data_with_keys_want_one(overnight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = overnight.without_service()
    monkeypatch.setenv("OVERNIGHT_ISOLATION", "none")
    key = made(alone)["key"]
    refused = alone("jobs")
    assert refused.exit_code == 4
    assert "OVERNIGHT_API_KEY" in refused.stderr
    assert "(unauthenticated)" in refused.stderr
    monkeypatch.setenv("OVERNIGHT_API_KEY", key)
    assert "no jobs" in alone("jobs").stdout


class Impostor(http.server.BaseHTTPRequestHandler):
    """Whoever got hold of the port: says that it is an overnight, and keeps what it is told."""

    told: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.told.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"service": "overnight", "data": []}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def impostor() -> Iterator[int]:
    """Its port."""
    Impostor.told.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_key_goes_only_to_a_service_that_is_known(
    overnight: Any, impostor: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = made(overnight)["key"]
    url = f"http://127.0.0.1:{impostor}"
    record = overnight.data / "service.json"
    monkeypatch.setenv("HOME", str(tmp_path))  # what is kept by default is elsewhere

    def jobs(*more: str, **settings: str) -> Any:
        environment = {"OVERNIGHT_API_KEY": key, **settings}  # a command takes the key out of it
        return typer.testing.CliRunner().invoke(app, ["jobs", *more], env=environment)

    record.write_text(json.dumps({"url": url, "pid": ended_process()}))
    left_behind = jobs(OVERNIGHT_DATA=str(overnight.data))
    usual_port = jobs(OVERNIGHT_PORT=str(impostor))
    for refused in (left_behind, usual_port):
        assert (refused.exit_code, "--url" in refused.stderr) == (4, True)
    assert not any(Impostor.told)

    record.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    for known in (jobs(OVERNIGHT_DATA=str(overnight.data)), jobs("--url", url)):
        assert (known.exit_code, Impostor.told[-1]) == (0, f"Bearer {key}")


def ended_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_key_that_cannot_be_one_is_named_and_not_repeated(
    overnight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_API_KEY", "canary\nkey")
    done = overnight("jobs")
    assert done.exit_code == 2
    assert "OVERNIGHT_API_KEY" in done.stderr
    assert "canary" not in done.output
