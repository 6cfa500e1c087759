"""Settings: read from the environment, explained when wrong, documented without exception."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from overnight import settings
from overnight.settings import Settings, SettingsError, load

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"


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


def names() -> set[str]:
    return {
        f"OVERNIGHT_{name.upper()}" if field.validation_alias is None else name.upper()
        for name, field in Settings.model_fields.items()
    }


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)` \|", DOCS.read_text(), re.MULTILINE))
    assert documented == names()


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


def test_secrets_leave_the_environment_and_do_not_show() -> None:
    os.environ |= dict.fromkeys(settings.SECRETS, "canary-secret")
    chosen = load()
    assert chosen.anthropic_api_key is not None
    assert chosen.anthropic_api_key.get_secret_value() == "canary-secret"
    assert not set(settings.SECRETS) & set(os.environ)
    assert "canary-secret" not in repr(chosen)


@pytest.mark.parametrize(
    "name",
    ["OVERNIGHT_CONCURRENCY", "OVERNIGHT_LEASE_SECONDS", "OVERNIGHT_PORT", "SUPABASE_URL"],
)
def test_a_wrong_value_is_named_and_not_repeated(name: str) -> None:
    os.environ[name] = "canary-value"
    with pytest.raises(SettingsError) as caught:
        load()
    assert f" {name}:" in str(caught.value)
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
