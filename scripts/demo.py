"""`make demo`: what overnight does, shown with its own command line, from a prompt to a kept session.

Without a key it runs offline: the real Claude Code, with the rehearsal API in place of the model. With
ANTHROPIC_API_KEY it runs for real. The exit status is 0 only if everything that is claimed was seen.
"""

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(".demo")
OVERNIGHT = Path(sys.executable).parent / "overnight"
FIRST = "Write a small program that prints the first ten primes, and run it."
SECOND = "Now add a test for it and run the test."
START_SECONDS = 60
STOP_SECONDS = 60


class DemoFailed(Exception):
    """Something that the demo claims did not happen."""


def main() -> int:
    real = bool(os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN"))
    try:
        with service(rehearsal=not real) as url:
            say("A first job:")
            first = run(FIRST)
            say("A second job that goes on in the same session:")
            second = run(SECOND, "--session", first["session_id"])
            archive = check(first, second)
            explain(second["session_id"], archive, url)
    except DemoFailed as failure:
        print(f"\nThe demo failed: {failure}\nThe service's log is {DATA / 'service.log'}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def service(*, rehearsal: bool) -> Iterator[str]:
    """`overnight serve` as a process of its own; yields its URL. It must also end well."""
    DATA.mkdir(exist_ok=True)
    command = ["serve", "--port", "0", "--data", str(DATA), *(["--rehearsal"] if rehearsal else [])]
    show(command)
    with (DATA / "service.log").open("wb") as log:
        process = subprocess.Popen([OVERNIGHT, *command], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield ready(process)
        process.terminate()
        if process.wait(STOP_SECONDS) != 0:
            raise DemoFailed("the service did not stop cleanly")
    except subprocess.TimeoutExpired:
        raise DemoFailed("the service did not stop") from None
    finally:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("overnight is ready at "):
            return line.split()[-1]
    raise DemoFailed("the service did not start")


def run(prompt: str, *more: str) -> dict[str, Any]:
    """The job, once `overnight run` has shown it live."""
    command = ["run", *more, "--data", str(DATA), prompt]
    show(command)
    if subprocess.run([OVERNIGHT, *command], check=False).returncode != 0:
        raise DemoFailed("the job did not complete")
    return dict(ask("status", newest_job(), "--json"))


def newest_job() -> str:
    return str(ask("jobs", "--limit", "1", "--json")[0]["job_id"])


def ask(*words: str) -> Any:
    command = [str(OVERNIGHT), *words, "--data", str(DATA)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def check(first: dict[str, Any], second: dict[str, Any]) -> Path:
    """The session's archive, after looking whether all that the demo claims is true."""
    path = DATA / "archives" / "claude-code" / f"{second['session_id']}.zip"
    if {first["status"], second["status"]} != {"completed"}:
        raise DemoFailed("not both jobs completed")
    if first["session_id"] != second["session_id"] or first["job_id"] == second["job_id"]:
        raise DemoFailed("the second job did not go on in the session of the first")
    if not path.is_file():
        raise DemoFailed(f"there is no archive at {path}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith((".py", ".js", ".sh", ".c", ".go", ".rs")) for name in names):
            raise DemoFailed("the archive does not hold the program")
        if not {FIRST, SECOND} <= prompts(archive):
            raise DemoFailed("the conversation does not hold both prompts")
    return path


def prompts(archive: zipfile.ZipFile) -> set[str]:
    """Which of our prompts stand in the session's one conversation, as a user's words."""
    transcripts = [name for name in archive.namelist() if name.endswith(".jsonl") and ".overnight/" in name]
    lines = [line for name in transcripts for line in archive.read(name).decode().splitlines()]
    said = [json.dumps(entry) for line in lines if (entry := json.loads(line)).get("type") == "user"]
    return {prompt for prompt in (FIRST, SECOND) if any(prompt in words for words in said)}


def explain(session_id: str, archive: Path, url: str) -> None:
    say("The session is kept, files and conversation, in")
    print(f"  {archive}")
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            print(f"    {entry.file_size:>8}  {entry.filename}")
    say("The same by hand:")
    print("  . .venv/bin/activate                # in every terminal")
    print(
        "  overnight serve --rehearsal         # for the real model: set ANTHROPIC_API_KEY, leave --rehearsal out"
    )
    print(f'  overnight run "{FIRST}"')
    print(f'  overnight run --session SESSION "{SECOND}"')
    say("or by HTTP (the README goes on from here):")
    print("  curl -s http://127.0.0.1:8080/execute -H 'Content-Type: application/json' \\")
    print(f"""       -d '{{"prompt": "{FIRST}"}}'""")
    print(f"\nEverything above is true: it was checked. ({url} stops now; session {session_id} stays.)")


def say(words: str) -> None:
    print(f"\n{words}", flush=True)


def show(command: list[str]) -> None:
    words = [f'"{word}"' if " " in word else word for word in command]
    print(f"$ overnight {' '.join(words)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
