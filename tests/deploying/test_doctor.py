"""`overnight doctor` for an edge: what is wrong is found, named, and has a remedy."""

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from overnight.cli.doctor_edge import edge_checks
from overnight.deploying.names import DEAD_LETTERS, NAMESPACE, QUEUE, WORKER
from overnight.rehearsal.account import ALL_RIGHTS, StandInAccount
from overnight.settings import Settings

LEDGER_TOKEN = "the-token-of-the-ledger"


@pytest.fixture
def settings(api: str, fake_edge: Any, account: StandInAccount) -> Settings:
    """Those of a worker, for an account in which all is well."""
    account.queues |= {QUEUE: "q", DEAD_LETTERS: "d"}
    account.consumers["q"] = [{"consumer_id": "c", "type": "http_pull", "dead_letter_queue": DEAD_LETTERS}]
    account.namespaces[NAMESPACE] = "n"
    account.entries["n"] = {"status:1": time.time() + 86_400}
    account.secrets[WORKER] = {"OVERNIGHT_LEDGER_TOKEN": LEDGER_TOKEN}
    return Settings.model_validate(
        {
            "edge_url": fake_edge.url,
            "ledger_token": LEDGER_TOKEN,
            "keys": "[]",
            "CLOUDFLARE_ACCOUNT_ID": "a",
            "CLOUDFLARE_API_TOKEN": account.token,
            "cloudflare_api_url": api,
            "cloudflare_queue_id": "q",
            "archives": "s3",
        }
    )


async def found(settings: Settings) -> dict[str, tuple[str, str]]:
    """Verdicts and all words of the checks, by name."""
    checks = await edge_checks(settings)
    return {check.name: (str(check.verdict), f"{check.finding} {check.remedy}") for check in checks}


async def test_all_is_well(settings: Settings, account: StandInAccount) -> None:
    checks = await found(settings)
    assert {verdict for verdict, _ in checks.values()} == {"good"}, checks
    assert account.changes == []


@dataclass(frozen=True)
class ShiftedClock:
    by: float

    def now(self) -> float:
        return time.time() + self.by


def no_queue(account: StandInAccount) -> None:
    del account.queues[QUEUE]


def no_consumer(account: StandInAccount) -> None:
    account.consumers.clear()


def only_a_pushed_one(account: StandInAccount) -> None:
    account.consumers["q"] = [{"consumer_id": "c", "type": "worker", "script_name": "another"}]


def no_right_to_write(account: StandInAccount) -> None:
    account.rights = ALL_RIGHTS - {"Queues Write"}


def no_right_to_read(account: StandInAccount) -> None:
    account.rights = ALL_RIGHTS - {"Queues Read"}


def a_dead_token(account: StandInAccount) -> None:
    account.alive = False


def another_ledger_token(account: StandInAccount) -> None:
    account.secrets[WORKER] = {"OVERNIGHT_LEDGER_TOKEN": "another"}


def an_entry_for_good(account: StandInAccount) -> None:
    account.entries["n"]["status:2"] = None


@pytest.mark.parametrize(
    ("harm", "check", "words"),
    [
        (no_queue, "Queue", "overnight cloudflare deploy"),
        (no_consumer, "Queue", "overnight cloudflare deploy"),
        (only_a_pushed_one, "Queue", "overnight cloudflare deploy"),
        (no_right_to_write, "Rights of the token", "Queues Write"),
        (no_right_to_read, "Queue", "Queues Read"),
        (a_dead_token, "Cloudflare token", "CLOUDFLARE_API_TOKEN"),
        (another_ledger_token, "Ledger", "OVERNIGHT_LEDGER_TOKEN"),
        (an_entry_for_good, "Mirror", "delete these keys"),
    ],
)
async def test_what_is_wrong_has_a_remedy(
    settings: Settings, account: StandInAccount, harm: Any, check: str, words: str
) -> None:
    harm(account)
    verdict, said = (await found(settings))[check]
    assert (verdict, words in said) == ("bad", True), said


async def test_an_edge_of_another_protocol_is_said(settings: Settings, fake_edge: Any) -> None:
    fake_edge.protocol = "0"
    verdict, said = (await found(settings))["Ledger"]
    assert (verdict, "protocol" in said) == ("bad", True)


@pytest.mark.parametrize(("off", "verdict"), [(0, "good"), (60, "note"), (-60, "note"), (3600, "bad")])
async def test_a_clock_that_is_off_is_seen(settings: Settings, off: float, verdict: str) -> None:
    checks = await edge_checks(settings, ShiftedClock(off))
    assert [str(check.verdict) for check in checks if check.name == "Clock"] == [verdict]


async def test_no_edge_is_said_and_the_account_is_looked_at_all_the_same(settings: Settings) -> None:
    checks = await found(settings.model_copy(update={"edge_url": "http://127.0.0.1:1"}))
    assert (checks["Edge"][0], checks["Queue"][0]) == ("bad", "good")


async def test_without_a_right_to_kv_the_mirror_is_only_a_note(
    settings: Settings, account: StandInAccount
) -> None:
    account.rights = ALL_RIGHTS - {"KV Read"}
    assert (await found(settings))["Mirror"][0] == "note"


async def test_settings_that_lack_are_named(settings: Settings) -> None:
    lacking = settings.model_copy(update={"ledger_token": None, "cloudflare_queue_id": None})
    verdict, said = (await found(lacking))["Settings of the edge"]
    assert verdict == "bad"
    assert "OVERNIGHT_LEDGER_TOKEN, OVERNIGHT_CLOUDFLARE_QUEUE_ID" in said


async def test_the_command_counts_them(command: Any, settings: Settings) -> None:
    given = {
        "OVERNIGHT_LEDGER_TOKEN": "another",
        "OVERNIGHT_CLOUDFLARE_QUEUE_ID": "q",
        "OVERNIGHT_REHEARSAL": "1",
    }
    ended = await command("doctor", "--json", **given)
    verdicts = {check["name"]: check["verdict"] for check in json.loads(ended.out)}
    assert (ended.status, verdicts["Ledger"], verdicts["Queue"]) == (1, "bad", "good")
