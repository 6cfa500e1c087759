"""Settings: read from the environment, explained when wrong, documented without exception."""

import os
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overnight.domain.signature import new_secret
from overnight.settings import Settings, SettingsError, load, mistaken, variable

SECRETS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "OVERNIGHT_API_KEY",
    "OVERNIGHT_WEBHOOK_SECRET",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_ANON_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OVERNIGHT_LEDGER_TOKEN",
    "OVERNIGHT_KEYS",
    "CLOUDFLARE_API_TOKEN",
)
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    before = dict(os.environ)
    for name in [
        name for name in os.environ if name.startswith(("OVERNIGHT_", "ANTHROPIC_", "SUPABASE_", "AWS_"))
    ]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def test_the_page_of_settings_is_as_it_would_be_made_now(capsys: pytest.CaptureFixture[str]) -> None:
    """`make docs` makes it anew."""
    runpy.run_path(str(ROOT / "scripts" / "settings_page.py"))
    made = capsys.readouterr().out
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)` \|", made, re.MULTILINE))
    assert documented == set(map(variable, Settings.model_fields))
    assert (ROOT / "docs" / "settings.md").read_text() == made


def test_defaults_work_without_any_variable() -> None:
    chosen = load()
    assert (chosen.host, chosen.port, chosen.concurrency, chosen.lease_seconds) == (
        "127.0.0.1",
        8080,
        2,
        15.0,
    )
    assert chosen.setting_sources == ()
    assert chosen.data.is_absolute()


def test_the_environment_is_read_and_a_command_line_is_stronger() -> None:
    os.environ |= {
        "OVERNIGHT_LEASE_SECONDS": "3",
        "OVERNIGHT_PORT": "9000",
        "OVERNIGHT_RETRY_DELAYS": "1, 2",
        "OVERNIGHT_CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8,::1/128",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
    }
    chosen = load(port=0, data=None)
    assert (chosen.lease_seconds, chosen.port, chosen.retry_delays) == (3.0, 0, (1.0, 2.0))
    assert [str(network) for network in chosen.callback_allow_private] == ["127.0.0.0/8", "::1/128"]
    assert chosen.anthropic_base_url == "http://127.0.0.1:1"


@pytest.mark.parametrize("spelled", [str.upper, str.lower, str.title])
def test_secrets_leave_the_environment_and_do_not_show(spelled: Callable[[str], str]) -> None:
    given = {**dict.fromkeys(SECRETS, "canary-secret"), "OVERNIGHT_WEBHOOK_SECRET": new_secret(b"canary" * 5)}
    os.environ |= {spelled(name): value for name, value in given.items()}
    chosen = load()
    assert {variable(name): value for name, value in chosen.secrets().items()} == given
    assert not set(given.values()) & set(os.environ.values())
    for value in given.values():
        assert value not in repr(chosen)


@pytest.mark.parametrize(
    "name",
    [
        "OVERNIGHT_CONCURRENCY",
        "OVERNIGHT_LEASE_SECONDS",
        "OVERNIGHT_PORT",
        "OVERNIGHT_RETRY_DELAYS",
        "OVERNIGHT_WEBHOOK_SECRET",
        "SUPABASE_URL",
        "ANTHROPIC_BASE_URL",
        "OVERNIGHT_EDGE_URL",
        "OVERNIGHT_CLOUDFLARE_API_URL",
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(name: str) -> None:
    os.environ[name] = "canary-value"
    with pytest.raises(SettingsError) as caught:
        load()
    assert f" {name}:" in str(caught.value)
    assert "canary-value" not in str(caught.value)


def test_the_plans_own_names_are_read_with_our_prefix_too_and_their_secrets_leave() -> None:
    os.environ |= {
        "OVERNIGHT_ANTHROPIC_API_KEY": "canary-key",
        "OVERNIGHT_ANTHROPIC_BASE_URL": "http://[::1]:8/",
    }
    settings = load()
    assert settings.anthropic_base_url == "http://[::1]:8/"
    assert "canary-key" not in os.environ.values()
    assert mistaken() == {}


def test_a_name_that_is_no_setting_is_told_with_the_one_that_may_be_meant() -> None:
    os.environ |= {
        "OVERNIGHT_CONCURENCY": "3",
        "OVERNIGHT_concurrency": "3",
        "OVERNIGHT_FAVOURITE_COLOUR": "blue",
        "OTHER": "1",
    }
    assert mistaken() == {
        "OVERNIGHT_CONCURENCY": "OVERNIGHT_CONCURRENCY",
        "OVERNIGHT_FAVOURITE_COLOUR": None,
    }


@pytest.mark.parametrize("url", ["ftp://a", "https://a:b", "http://a?b", "http://", "a"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    os.environ["ANTHROPIC_BASE_URL"] = url
    with pytest.raises(SettingsError, match="ANTHROPIC_BASE_URL"):
        load()


def test_a_url_holds_no_password() -> None:
    os.environ["ANTHROPIC_BASE_URL"] = "https://me:canary-value@proxy.example/v1"
    with pytest.raises(SettingsError, match="nothing secret") as caught:
        load()
    assert "canary-value" not in str(caught.value)


@pytest.mark.parametrize("days", ["0.5", "6.99", "-1"])
def test_no_job_may_be_forgotten_before_its_idempotency_key(days: str) -> None:
    os.environ["OVERNIGHT_JOB_RETENTION_DAYS"] = days
    with pytest.raises(SettingsError, match="OVERNIGHT_JOB_RETENTION_DAYS"):
        load()


@pytest.mark.parametrize("days", ["0", "7", "90"])
def test_a_job_may_be_forgotten_after_its_idempotency_key_or_never(days: str) -> None:
    os.environ["OVERNIGHT_JOB_RETENTION_DAYS"] = days
    assert load().job_retention_days == float(days)


def test_an_empty_variable_is_like_none() -> None:
    """The files of variables in deploy/ list names that wait for their value."""
    os.environ |= {
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_AUTH_TOKEN": "token",
        "OVERNIGHT_EDGE_URL": "",
        "OVERNIGHT_IDLE_EXIT_SECONDS": "",
        "OVERNIGHT_S3_BUCKET": "",
    }
    chosen = load()
    assert chosen.anthropic_api_key is None
    assert (chosen.edge_url, chosen.idle_exit_seconds, chosen.s3_bucket) == (None, None, None)
    assert list(chosen.secrets()) == ["anthropic_auth_token"]


def test_an_empty_list_is_one() -> None:
    os.environ |= {"OVERNIGHT_ARCHIVE_EXCLUDE": "", "OVERNIGHT_RETRY_DELAYS": ""}
    chosen = load()
    assert (chosen.archive_exclude, chosen.retry_delays) == ((), ())


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1,-1"])
def test_a_delay_is_a_time_to_wait(value: str) -> None:
    os.environ["OVERNIGHT_RETRY_DELAYS"] = value
    with pytest.raises(SettingsError, match="OVERNIGHT_RETRY_DELAYS: "):
        load()
