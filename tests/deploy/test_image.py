"""The image: it builds from the lock, answers its probes, and hands its jobs back on SIGTERM."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped] # it brings no types, and its stubs would be a package for this alone

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def tini() -> None:
    if shutil.which("tini") is None:
        pytest.skip("tini is missing (apt-get install tini)")


def key_of(image: Any, environment: dict[str, str]) -> str:
    made = subprocess.run(
        image.call("keys", "create", "--name", "first", "--scope", "admin", "--json"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return str(json.loads(made.stdout)["key"])


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(client.get(f"/status/{job_id}").json())


def made(data: Path, name: str) -> None:
    """Wait for a file of a run, whose command tells nobody that it has come so far."""
    ends = time.monotonic() + 60
    while not any(name in files for _, _, files in os.walk(data)):  # what vanishes meanwhile is passed over
        assert time.monotonic() < ends
        time.sleep(0.05)


def until(client: httpx.Client, job_id: str, event: str) -> None:
    """Wait in the service itself for an event of the job."""
    ends = time.monotonic() + 60  # pings keep the stream from timing out by itself
    with client.stream(
        "GET", f"/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}, timeout=90
    ) as stream:
        for line in stream.iter_lines():
            assert time.monotonic() < ends
            if line == f"event: {event}":
                return
    raise AssertionError((event, job(client, job_id)))


def test_the_image_holds_what_is_locked_and_no_build_tools(image: Any, deploy: Any) -> None:
    python = image.here("/opt/overnight/bin/python")
    listed = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    installed = set(
        subprocess.run([python, "-c", listed], capture_output=True, text=True, check=True).stdout.split()
    )
    assert {"overnight", "claude-agent-sdk", "cloudflare", "obstore"} <= installed
    assert not installed & {"pip", "setuptools", "wheel", "pytest"}
    version = subprocess.run(image.call("version"), capture_output=True, text=True, check=True).stdout
    assert version.startswith("overnight ")


def test_without_a_key_the_image_serves_nobody(image: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        image.call("serve"),
        env=image.environment(tmp_path / "data"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "overnight keys create" in done.stderr


def test_probes_answer_and_sigterm_hands_the_job_back(image: Any, deploy: Any, tmp_path: Path) -> None:
    environment = image.environment(tmp_path / "data", OVERNIGHT_ALLOWED_HOSTS="overnight.example.com")
    port, key = environment["OVERNIGHT_PORT"], key_of(image, environment)
    command = image.call(*deploy.stages()[-1].command("CMD"))
    prompt = "rehearsal: bash test -e again || { touch again; tail -f /dev/null; }\nrehearsal: answer went on"
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, headers={"Authorization": f"Bearer {key}"}
    )
    with client:
        with deploy.running(command, environment, tmp_path / "log") as service:
            check = [word.replace("8080", port) for word in deploy.stages()[-1].command("HEALTHCHECK")]
            assert subprocess.run(check, timeout=20, check=False).returncode == 0
            for probe in probes(deploy.root):
                headers = {header["name"]: header["value"] for header in probe.get("httpHeaders", [])}
                asked = httpx.get(f"http://127.0.0.1:{port}{probe['path']}", headers=headers, trust_env=False)
                assert asked.status_code == 200, asked.text
            job_id = client.post("/execute", json={"prompt": prompt}).json()["job_id"]
            made(tmp_path / "data", "again")
            service.process.send_signal(signal.SIGTERM)
            assert service.ended() == 0
        with deploy.running(command, environment, tmp_path / "log"):
            until(client, job_id, "job.completed")
            assert (job(client, job_id)["result"], job(client, job_id)["attempt"]) == ("went on", 2)


def probes(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for document in yaml.safe_load_all((root / "deploy" / "kubernetes.yaml").read_text()):
        for container in document["spec"].get("template", {}).get("spec", {}).get("containers", []):
            found += [container[name]["httpGet"] for name in container if name.endswith("Probe")]
    assert {probe["path"] for probe in found} == {"/healthz", "/readyz"}
    return found


def limited(capabilities: list[str], *more: str) -> list[str]:
    allowed = ",".join(["-all", *(f"+{name.lower().removeprefix('cap_')}" for name in capabilities)])
    return [shutil.which("setpriv") or "setpriv", f"--bounding-set={allowed}", "--inh-caps=-all", *more]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities away")
def test_the_capabilities_of_the_container_are_enough_for_users_of_runs(
    image: Any, deploy: Any, tmp_path: Path
) -> None:
    """Jobs whose files nobody but their user may touch, which the service must save, restore and delete."""
    compose = yaml.safe_load((deploy.root / "deploy" / "compose.yaml").read_text())
    environment = image.environment(
        tmp_path / "data",
        OVERNIGHT_ISOLATION="landlock",
        OVERNIGHT_WARM_WORKSPACES="0",
        OVERNIGHT_HOST="127.0.0.1",
    )
    allowed = limited(compose["x-overnight"]["cap_add"], "--no-new-privs")
    url = f"http://127.0.0.1:{environment['OVERNIGHT_PORT']}"
    with (
        deploy.running([*allowed, *image.call("serve")], environment, tmp_path / "log"),
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        held = client.get("/readyz").json()
        assert held["isolation"] == "landlock"
        assert held["isolation_properties"]["own_user"], held["reasons"]
        closed = "mkdir -p d && echo kept > d/f && chmod 400 d/f && chmod 500 d"
        first = client.post(
            "/execute", json={"prompt": f"rehearsal: bash {closed}\nrehearsal: answer one"}
        ).json()
        until(client, first["job_id"], "job.completed")
        again = {
            "prompt": "rehearsal: bash cat d/f && id -u\nrehearsal: answer two",
            "session_id": first["session_id"],
        }
        second = client.post("/execute", json=again).json()
        until(client, second["job_id"], "job.completed")
        told = client.get(f"/jobs/{second['job_id']}/events").text
    assert re.search(r"kept\\n4[23]\d{3}", told), told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities away")
def test_what_the_unit_leaves_to_the_service_is_enough_for_the_best_tier(
    image: Any, deploy: Any, tmp_path: Path
) -> None:
    unit = (deploy.root / "deploy" / "overnight.service").read_text()
    (capabilities,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert "\nNoNewPrivileges=yes\n" in unit
    command = [*limited(capabilities.split(), "--no-new-privs"), *image.call("doctor", "--attack", "--json")]
    done = subprocess.run(
        command,
        env=image.environment(tmp_path / "data"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    tiers = {tier["tier"]: tier for tier in json.loads(done.stdout)}
    assert tiers["namespace"]["holds"], tiers["namespace"]
    assert tiers["namespace"]["properties"]["own_user"]


def test_a_worker_that_is_idle_ends_by_itself_but_not_while_a_job_runs(
    image: Any, deploy: Any, tmp_path: Path
) -> None:
    log, data = tmp_path / "log", tmp_path / "data"
    # This service takes no jobs: so it is the worker that runs the one, for longer than it may be idle.
    refusing = image.environment(data, OVERNIGHT_ISOLATION="none", OVERNIGHT_HOST="127.0.0.1")
    idle = {**refusing, "OVERNIGHT_ISOLATION": "auto", "OVERNIGHT_IDLE_EXIT_SECONDS": "1"}
    with (
        deploy.running(image.call("serve"), refusing, log),
        httpx.Client(base_url=f"http://127.0.0.1:{refusing['OVERNIGHT_PORT']}", trust_env=False) as client,
    ):
        prompt = "rehearsal: bash sleep 3\nrehearsal: answer fine"
        job_id = client.post("/execute", json={"prompt": prompt}).json()["job_id"]
        with deploy.running(image.call("worker"), idle, log) as worker:
            assert worker.ended() == 0, log.read_text()
        assert job(client, job_id)["result"] == "fine"
        refused = {**idle, "OVERNIGHT_ISOLATION": "none"}
        with deploy.running(image.call("worker"), refused, log) as worker:
            assert worker.ended() == 1
