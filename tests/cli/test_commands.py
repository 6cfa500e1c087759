import json
import re
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest

ABSENT = "00000000-0000-4000-8000-000000000000"


def submitted(overnight: Any, prompt: str, *more: str) -> dict[str, Any]:
    done = overnight("run", prompt, "--json", *more)
    return dict(json.loads(done.stdout))


def test_run_tells_the_story_and_how_to_go_on(overnight: Any) -> None:
    done = overnight("run", "Print some primes")
    assert done.exit_code == 0, done.output
    story = done.stdout
    assert "● Bash  python3 primes.py" in story
    assert "✗ no such file" in story
    assert re.search(r"✓ completed in .* · 2 turns · \$0\.2500", story)
    assert story.count("All done.") == 1
    again = re.search(r'(--session [0-9a-f-]{36}) --url (\S+) "\.\.\."', story)
    assert again is not None
    assert overnight("run", *again[1].split(), "--url", again[2], "And now?").exit_code == 0
    assert "overnight sessions download" in story


def test_the_words_of_an_agent_cannot_steer_the_terminal(overnight: Any) -> None:
    for words in (("run", "x"), ("run", "fail"), ("run", "x", "--json")):
        said = overnight(*words).output
        assert "safe" in said or "--json" in words
        assert "\x1b" not in said
        assert "\u202e" not in said


def test_json_is_one_document_and_nothing_else(overnight: Any) -> None:
    done = overnight("run", "x", "--json")
    job = json.loads(done.stdout)
    assert (job["status"], job["result"], job["cost_usd"]) == ("completed", "All done.", 0.25)
    assert done.stderr == ""


def test_a_failed_job_is_exit_1_and_says_why_and_how_to_try_again(overnight: Any) -> None:
    done = overnight("run", "please fail")
    assert done.exit_code == 1
    assert "✗ failed" in done.stdout
    assert "It went on for too long." in done.stdout
    assert "overnight retry" in done.stdout


def test_a_job_cancelled_meanwhile_is_exit_3(overnight: Any) -> None:
    accepted = submitted(overnight, "wait", "--detach")
    cancelled = overnight("cancel", accepted["job_id"])
    assert cancelled.exit_code == 0
    followed = overnight("logs", "-f", accepted["job_id"])
    assert followed.exit_code == 3
    assert "■ cancelled" in followed.stdout
    assert "is cancelled" in overnight("cancel", accepted["job_id"]).stdout


def test_a_finished_job_is_not_cancelled_any_more(overnight: Any) -> None:
    job = submitted(overnight, "x")
    assert "had ended already: completed" in overnight("cancel", job["job_id"]).stdout


def test_a_session_goes_on(overnight: Any) -> None:
    first = submitted(overnight, "x")
    second = submitted(overnight, "y", "--session", first["session_id"])
    assert second["session_id"] == first["session_id"]
    assert json.loads(overnight("sessions", "show", first["session_id"], "--json").stdout)["jobs"] == 2


def test_detach_says_how_to_follow(overnight: Any) -> None:
    done = overnight("run", "x", "--detach")
    assert done.exit_code == 0
    job_id = re.search(r"overnight logs -f ([0-9a-f-]{36})", done.stdout)
    assert job_id is not None
    assert overnight("logs", "-f", job_id[1]).exit_code == 0


def test_the_prompt_may_come_from_a_file_or_the_standard_input(overnight: Any, tmp_path: Path) -> None:
    file = tmp_path / "prompt.md"
    file.write_text("please fail")
    assert overnight("run", "--file", str(file)).exit_code == 1
    assert overnight("run", "--file", "-", typed="please fail").exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "  "),
        ("run", "x", "--file", "y"),
        ("run", "x", "--timeout", "soon"),
        ("status",),
        ("frobnicate",),
        ("run", "x", "--colour"),
        ("jobs", "--limit", "0"),
    ],
)
def test_wrong_usage_is_exit_2(overnight: Any, words: tuple[str, ...]) -> None:
    assert overnight(*words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "x", "--session", ABSENT), "session_not_found"),
        (("run", "x", "--model", "-rf"), "/model"),
        (("run", "x", "--callback-url", "http://127.0.0.1/"), "callback_url_refused"),
        (("status", ABSENT), "job_not_found"),
        (("status", "../healthz"), "not_found"),
        (("logs", ABSENT), "job_not_found"),
        (("logs", "-f", ABSENT), "job_not_found"),
        (("cancel", ABSENT), "job_not_found"),
        (("retry", ABSENT), "job_not_found"),
        (("sessions", "show", ABSENT), "session_not_found"),
        (("sessions", "download", ABSENT), "session_not_found"),
        (("sessions", "rm", ABSENT, "--yes"), "session_not_found"),
    ],
)
def test_a_refusal_is_exit_4_and_one_clear_line(overnight: Any, words: tuple[str, ...], said: str) -> None:
    done = overnight(*words)
    assert done.exit_code == 4, done.output
    assert said in done.stderr
    assert done.stderr.startswith("overnight: ")
    assert "Traceback" not in done.output


def test_status_shows_all_that_is_known(overnight: Any) -> None:
    job = submitted(overnight, "please fail")
    page = overnight("status", job["job_id"]).stdout
    assert re.search(r"^status +failed$", page, re.MULTILINE)
    assert "max_turns: It went on for too long." in page
    assert json.loads(overnight("status", job["job_id"], "--json").stdout) == job


def test_jobs_are_listed_whole_and_can_be_chosen(overnight: Any) -> None:
    failed, completed = submitted(overnight, "fail"), submitted(overnight, "x")
    listed = overnight("jobs", "--limit", "2").stdout
    assert listed.index(completed["job_id"]) < listed.index(failed["job_id"])
    assert failed["session_id"] in listed
    chosen = json.loads(overnight("jobs", "--session", failed["session_id"], "--json").stdout)
    assert [job["job_id"] for job in chosen] == [failed["job_id"]]
    assert completed["job_id"] not in overnight("jobs", "--status", "failed", "--status", "cancelled").stdout


def test_logs_tell_what_happened(overnight: Any) -> None:
    job = submitted(overnight, "x")
    told = overnight("logs", job["job_id"]).stdout
    assert "● Bash  python3 primes.py" in told
    assert "✓ completed" in told
    events = [json.loads(line) for line in overnight("logs", job["job_id"], "--json").stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "job.completed"


def test_a_failed_job_can_be_sent_again(overnight: Any) -> None:
    job = submitted(overnight, "fail")
    assert overnight("retry", job["job_id"]).exit_code == 0
    assert overnight("logs", "-f", job["job_id"]).exit_code == 0
    again = overnight("retry", job["job_id"])
    assert again.exit_code == 4
    assert "not_retryable" in again.stderr


def test_a_session_can_be_downloaded_and_is_not_overwritten(
    overnight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session_id = submitted(overnight, "x")["session_id"]
    assert overnight("sessions", "download", session_id).exit_code == 0
    assert zipfile.ZipFile(tmp_path / f"{session_id}.zip").namelist() == ["primes.py"]
    second = overnight("sessions", "download", session_id)
    assert second.exit_code == 1
    assert "exists" in second.stderr
    assert overnight("sessions", "download", session_id, "-o", "other.zip").exit_code == 0
    assert overnight("sessions", "download", session_id, "-o", "no/such/dir.zip").exit_code == 1


def test_a_session_can_start_from_a_zip(overnight: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as mine:
        mine.writestr("README.md", "mine")
    session_id = str(uuid.uuid4())
    done = overnight("sessions", "upload", session_id, str(tmp_path / "mine.zip"))
    assert done.exit_code == 0, done.output
    assert f"overnight run --session {session_id}" in done.stdout
    assert session_id in overnight("sessions", "ls").stdout
    twice = overnight("sessions", "upload", session_id, str(tmp_path / "mine.zip"))
    assert (twice.exit_code, "session_exists" in twice.stderr) == (4, True)
    (tmp_path / "not.zip").write_text("not a zip")
    bad = overnight("sessions", "upload", str(uuid.uuid4()), str(tmp_path / "not.zip"))
    assert (bad.exit_code, "archive_refused" in bad.stderr) == (4, True)
    unnamed = overnight("sessions", "upload", "mine", str(tmp_path / "mine.zip"))
    assert (unnamed.exit_code, "an id is a lower-case UUID" in unnamed.stderr) == (2, True)


def test_a_status_that_there_is_not_is_told_with_those_there_are(overnight: Any) -> None:
    done = overnight("jobs", "--status", "done")
    assert (done.exit_code, "'cancelled'" in done.stderr) == (2, True)


def test_erasing_a_session_asks_first(overnight: Any) -> None:
    session_id = submitted(overnight, "x")["session_id"]
    assert overnight("sessions", "rm", session_id, typed="n\n").exit_code != 0
    assert overnight("sessions", "show", session_id).exit_code == 0
    assert overnight("sessions", "rm", session_id, typed="y\n").exit_code == 0
    assert overnight("sessions", "show", session_id).exit_code == 4


def test_a_wrong_setting_is_named_and_its_value_is_not_repeated(
    overnight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_LEASE_SECONDS", "canary")
    done = overnight("jobs")
    assert done.exit_code == 2
    assert "OVERNIGHT_LEASE_SECONDS" in done.stderr
    assert "canary" not in done.output


def test_a_service_that_is_not_there_is_exit_4(overnight: Any) -> None:
    for url in ("http://127.0.0.1:1", "nonsense"):
        done = overnight("run", "x", "--url", url)
        assert done.exit_code == 4
        assert "Traceback" not in done.output


def test_detach_without_a_service_submits_nothing_and_says_what_to_do(overnight: Any) -> None:
    done = overnight.without_service()("run", "x", "--detach")
    assert done.exit_code == 4
    assert "overnight serve" in done.stderr


def test_the_recorded_service_is_found(overnight: Any) -> None:
    alone = overnight.without_service()
    alone.data.mkdir()
    (alone.data / "service.json").write_text(json.dumps({"url": overnight.url, "pid": 1}))
    assert alone("run", "x").exit_code == 0
