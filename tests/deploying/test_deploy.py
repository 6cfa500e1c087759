"""`overnight cloudflare deploy`: the real program and the real wrangler, against a stand-in of the account."""

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from overnight.deploying.names import DEAD_LETTERS, NAMESPACE, QUEUE, WORKER
from overnight.domain.keys import digest, parse_key
from overnight.rehearsal.account import ALL_RIGHTS, StandInAccount

DEPLOY = ("cloudflare", "deploy")
EDGE = Path(__file__).parents[2] / "edge"


def settings_of_a_worker(data: Path) -> dict[str, str]:
    lines = (data / "worker.env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value.strip("'") for name, value in found.items()}


def key_shown(out: str) -> str | None:
    found = re.search(r"^OVERNIGHT_API_KEY=(\S+)$", out, re.MULTILINE)
    return found[1] if found else None


def pulled(account: StandInAccount) -> list[Any]:
    """The consumers of the queue that workers pull from."""
    return account.consumers[account.queues[QUEUE]]


async def test_it_makes_what_is_missing_goes_on_after_a_failure_and_can_be_run_again(
    command: Any, account: StandInAccount, uploads: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    uploads.refuse = True
    failed = await command(*DEPLOY)
    assert failed.status == 1
    assert f"the step `Worker {WORKER}` failed" in failed.err
    assert "the script is not well" in failed.err  # what Cloudflare said to wrangler
    assert re.search(r"Done: .*API keys, bundle\. Not done: Worker .*, secrets", failed.err)
    key = key_shown(failed.out)
    assert key is not None
    made = dict(account.queues), dict(account.namespaces), pulled(account)

    uploads.refuse = False
    ended = await command(*DEPLOY)
    assert ended.status == 0, ended.out + ended.err
    assert (account.queues, account.namespaces, pulled(account)) == made
    [burying] = account.consumers[account.queues[DEAD_LETTERS]]
    assert (burying["type"], burying["script_name"]) == (
        "worker",
        WORKER,
    )  # wrangler made it, of wrangler.jsonc
    assert set(account.queues) == {QUEUE, DEAD_LETTERS}
    (consumer,) = account.consumers[account.queues[QUEUE]]
    assert (consumer["type"], consumer["dead_letter_queue"]) == ("http_pull", DEAD_LETTERS)
    assert account.namespaces[NAMESPACE].encode() in uploads.bodies[0]  # the Worker's own KV namespace
    assert key_shown(ended.out) is None  # the key of the first run stands

    worker, secrets = settings_of_a_worker(data), account.secrets[WORKER]
    (stored,) = json.loads(secrets["OVERNIGHT_KEYS"])
    assert stored["secret_sha256"] == digest(parse_key(key).secret)
    assert worker["OVERNIGHT_KEYS"] == secrets["OVERNIGHT_KEYS"]
    assert worker["OVERNIGHT_LEDGER_TOKEN"] == secrets["OVERNIGHT_LEDGER_TOKEN"]
    assert worker["OVERNIGHT_CLOUDFLARE_QUEUE_ID"] == account.queues[QUEUE]
    assert stat.S_IMODE((data / "worker.env").stat().st_mode) == 0o600
    assert secrets["OVERNIGHT_LEDGER_TOKEN"] not in ended.out + ended.err

    changes = list(account.changes)
    again = await command(*DEPLOY)
    assert again.status == 0
    # Wrangler writes the consumer of its own Worker as it was; nothing is made.
    assert [change.split()[0] for change in account.changes[len(changes) :]] == ["PUT"]
    assert account.consumers[account.queues[DEAD_LETTERS]] == [burying]
    assert account.secrets[WORKER] == secrets


async def test_a_dry_run_shows_the_plan_and_changes_nothing(
    command: Any, account: StandInAccount, uploads: Any, tmp_path: Path
) -> None:
    account.queues[QUEUE] = "a-queue-of-theirs"
    ended = await command(*DEPLOY, "--dry-run")
    assert ended.status == 0
    assert f"= queue {QUEUE}: a-queue-of-theirs" in ended.out
    assert f"+ queue {DEAD_LETTERS}: make it" in ended.out
    assert "Nothing was changed." in ended.out
    assert (account.changes, account.secrets, uploads.bodies) == ([], {}, [])
    assert not (tmp_path / "data").exists()


async def test_secrets_go_by_stdin_and_the_token_by_the_environment(
    command: Any, recorded: Any, api: str
) -> None:
    """A recording program stands where node would."""
    recorded.tell_secrets_to(f"{api}/secrets-of/{WORKER}")
    ended = await command(*DEPLOY, "--edge", str(recorded.edge))
    assert ended.status == 0, ended.out + ended.err
    upload, secrets = recorded.calls()
    assert upload["argv"][1] == "deploy"
    assert secrets["argv"][1:3] == ["secret", "bulk"]
    given = json.loads(secrets["stdin"])
    assert set(given) == {"OVERNIGHT_KEYS", "OVERNIGHT_LEDGER_TOKEN"}
    for call in (upload, secrets):
        assert call["token"] == command.environment["CLOUDFLARE_API_TOKEN"]
        assert not any(secret in " ".join(call["argv"]) for secret in (*given.values(), call["token"]))


async def test_secrets_that_this_directory_does_not_know_are_left_alone(
    command: Any, recorded: Any, account: StandInAccount
) -> None:
    account.secrets[WORKER] = {"OVERNIGHT_LEDGER_TOKEN": "of another machine", "OVERNIGHT_KEYS": "[]"}
    refused = await command(*DEPLOY, "--edge", str(recorded.edge))
    assert refused.status == 1
    assert "--replace-secrets" in refused.err
    assert recorded.calls() == []


async def test_keys_of_another_directory_do_not_replace_those_of_the_edge(
    command: Any, recorded: Any, account: StandInAccount
) -> None:
    """As when a worker's settings are sourced, which name the ledger token, and --data is forgotten."""
    worker = {"OVERNIGHT_LEDGER_TOKEN": "of the edge", "OVERNIGHT_KEYS": "[]"}
    account.secrets[WORKER] = dict(worker)
    await make_key(command, "local")
    refused = await command(*DEPLOY, "--edge", str(recorded.edge), **worker)
    assert (refused.status, recorded.calls()) == (1, [])
    assert "--replace-secrets" in refused.err
    assert account.secrets[WORKER] == worker


async def test_a_token_that_is_not_the_one_of_the_directory_is_refused(
    command: Any, recorded: Any, account: StandInAccount, tmp_path: Path
) -> None:
    """The next deployment, without the setting, would give the edge the old one back and shut out its workers."""
    kept = tmp_path / "data" / "ledger-token"
    kept.parent.mkdir()
    kept.write_text("s3cr3t-old\n")
    refused = await command(*DEPLOY, "--edge", str(recorded.edge), OVERNIGHT_LEDGER_TOKEN="s3cr3t-new")
    assert (refused.status, recorded.calls(), account.secrets) == (1, [], {})
    assert "the step `ledger token` failed" in refused.err
    assert str(kept) in refused.err
    assert "s3cr3t-" not in refused.err


async def test_they_are_replaced_where_that_is_wanted(
    command: Any, recorded: Any, account: StandInAccount, api: str, tmp_path: Path
) -> None:
    account.secrets[WORKER] = {"OVERNIGHT_LEDGER_TOKEN": "of another machine", "OVERNIGHT_KEYS": "[]"}
    recorded.tell_secrets_to(f"{api}/secrets-of/{WORKER}")
    ended = await command(*DEPLOY, "--edge", str(recorded.edge), "--replace-secrets")
    assert ended.status == 0, ended.out + ended.err
    assert json.loads(recorded.calls()[1]["stdin"])["OVERNIGHT_LEDGER_TOKEN"] == (
        (tmp_path / "data" / "ledger-token").read_text().strip()
    )


def sourced(file: Path, name: str) -> str:
    """What a shell makes of a setting in the file."""
    told = ["/bin/sh", "-c", f'. {file}; printf %s "${name}"']
    return subprocess.run(told, capture_output=True, check=True, timeout=20, text=True).stdout


async def make_key(command: Any, name: str) -> str:
    made = await command("keys", "create", "--json", "--name", name)
    return str(json.loads(made.out)["key_id"])


async def test_live_keys_go_to_the_edge_and_all_to_the_workers(
    command: Any, recorded: Any, api: str, tmp_path: Path
) -> None:
    """A worker still signs the webhooks of a revoked key's jobs. The name has a quote, which the file must bear."""
    recorded.tell_secrets_to(f"{api}/secrets-of/{WORKER}")
    live, revoked = await make_key(command, "Bob's"), await make_key(command, "old")
    await command("keys", "revoke", revoked)
    ended = await command(*DEPLOY, "--edge", str(recorded.edge))
    assert (ended.status, key_shown(ended.out)) == (0, None)
    sent = json.loads(json.loads(recorded.calls()[1]["stdin"])["OVERNIGHT_KEYS"])
    assert [key["key_id"] for key in sent] == [live]
    names = {key["name"] for key in json.loads(sourced(tmp_path / "data" / "worker.env", "OVERNIGHT_KEYS"))}
    assert names == {"Bob's", "old"}


async def test_more_keys_than_a_secret_holds_are_refused_before_they_are_sent(
    command: Any, recorded: Any
) -> None:
    for number in range(13):
        await make_key(command, f"key {number}")
    ended = await command(*DEPLOY, "--edge", str(recorded.edge))
    assert ended.status == 1
    assert "overnight keys revoke" in ended.err
    assert [call["argv"][1] for call in recorded.calls()] == ["deploy"]


@pytest.mark.parametrize(
    ("without", "step", "permission"),
    [
        ("Queues Write", f"queue {DEAD_LETTERS}", "Queues Write"),
        ("KV Write", f"KV namespace {NAMESPACE}", "Workers KV Storage Write"),
        ("Workers Read", "ledger token", "Workers Scripts Read"),
    ],
)
async def test_a_right_that_lacks_is_named(
    command: Any, account: StandInAccount, without: str, step: str, permission: str
) -> None:
    account.rights = ALL_RIGHTS - {without}
    ended = await command(*DEPLOY)
    assert ended.status == 1
    assert f"the step `{step}` failed" in ended.err
    assert f"Give the token the permission {permission}" in ended.err


async def test_a_dead_token_is_said(command: Any, account: StandInAccount) -> None:
    account.alive = False
    ended = await command(*DEPLOY)
    assert ended.status == 1
    assert "CLOUDFLARE_API_TOKEN" in ended.err
    assert account.changes == []


@pytest.mark.parametrize("name", ["CLOUDFLARE_API_TOKEN", "CLOUDFLARE_ACCOUNT_ID"])
async def test_a_setting_that_lacks_is_named(command: Any, name: str) -> None:
    ended = await command(*DEPLOY, **{name: None})
    assert (ended.status, name in ended.err) == (2, True)


async def test_a_queue_with_another_consumer_is_left_as_it_is(command: Any, account: StandInAccount) -> None:
    account.queues[QUEUE] = "q"
    theirs = {"consumer_id": "c", "type": "worker", "script_name": "theirs"}
    account.consumers["q"] = [theirs]
    ended = await command(*DEPLOY)
    assert ended.status == 1
    assert "the step `pull consumer` failed" in ended.err
    assert "A queue has one consumer" in ended.err
    assert account.consumers["q"] == [theirs]


OTHER_CREDENTIALS = {
    "CLOUDFLARE_EMAIL": "somebody@example.com",
    "CLOUDFLARE_API_KEY": "a global key",
    "CLOUDFLARE_API_USER_SERVICE_KEY": "v1.0-key",
}


async def test_the_token_is_what_opens_the_account_whatever_else_the_environment_has(
    command: Any, account: StandInAccount
) -> None:
    """The official client prefers an address that it finds in the environment, and then sends no token at all."""
    ended = await command(*DEPLOY, "--dry-run", **OTHER_CREDENTIALS)
    assert ended.status == 0, ended.err


async def test_an_account_without_a_name_for_workers_is_told_what_to_do(
    command: Any, recorded: Any, account: StandInAccount
) -> None:
    account.subdomain = None
    ended = await command(*DEPLOY, "--edge", str(recorded.edge), OVERNIGHT_EDGE_URL=None)
    assert ended.status == 1
    assert "workers.dev" in ended.err
    assert recorded.calls() == []


async def test_a_pull_consumer_gets_its_dead_letters_and_keeps_its_settings(
    command: Any, account: StandInAccount
) -> None:
    account.queues[QUEUE] = "q"
    settings = {"max_retries": 7.0, "visibility_timeout_ms": 5000.0}
    account.consumers["q"] = [{"consumer_id": "c", "type": "http_pull", "settings": settings}]
    account.rights = ALL_RIGHTS - {"KV Read"}  # so that it ends after the queues
    await command(*DEPLOY)
    (consumer,) = account.consumers["q"]
    assert (consumer["dead_letter_queue"], consumer["settings"]) == (DEAD_LETTERS, settings)


def test_the_names_are_those_of_the_configuration() -> None:
    text = (EDGE / "wrangler.jsonc").read_text()
    config = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert config["name"] == WORKER
    assert [producer["queue"] for producer in config["queues"]["producers"]] == [QUEUE]
    assert config["kv_namespaces"] == [{"binding": "STATUS", "id": "set-by-deploy"}]
