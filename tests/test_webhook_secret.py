"""The service's own webhook secret: made once, whole, the same for all processes of a data directory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overnight.domain.signature import new_secret, parse_secret
from overnight.settings import Settings, SettingsError, load
from overnight.wiring.secrets import webhook_secret

TOGETHER = 8
ROUNDS = 30


def test_those_that_start_together_have_the_same_one(tmp_path: Path) -> None:
    start = threading.Barrier(TOGETHER)

    def ask(settings: Settings) -> str:
        start.wait(timeout=30)
        return webhook_secret(settings)

    with ThreadPoolExecutor(TOGETHER) as threads:
        for number in range(ROUNDS):
            data = tmp_path / str(number)
            data.mkdir()
            told = set(threads.map(ask, [load(data=data)] * TOGETHER))
            assert len(told) == 1
            assert parse_secret(told.pop())
            assert [path.name for path in data.iterdir()] == ["webhook-secret"]
            assert (data / "webhook-secret").stat().st_mode & 0o777 == 0o600


def test_where_there_are_no_hard_links_it_is_made_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some mounts of containers have none, and the archives there need none either."""

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refused)
    settings = load(data=tmp_path)
    assert parse_secret(webhook_secret(settings))
    assert webhook_secret(settings) == webhook_secret(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["webhook-secret"]


def test_it_stays(tmp_path: Path) -> None:
    settings = load(data=tmp_path)
    assert webhook_secret(settings) == webhook_secret(settings)


@pytest.mark.parametrize("kept", [b"", b"whsec_canary", b"\xff\xfe"])
def test_one_that_is_damaged_is_said_and_neither_shown_nor_replaced(tmp_path: Path, kept: bytes) -> None:
    file = tmp_path / "webhook-secret"
    file.write_bytes(kept)
    with pytest.raises(SettingsError, match="webhook-secret: a webhook secret is") as caught:
        webhook_secret(load(data=tmp_path))
    assert "canary" not in str(caught.value)
    assert file.read_bytes() == kept


def test_a_setting_is_stronger(tmp_path: Path) -> None:
    given = new_secret(b"x" * 32)
    assert webhook_secret(load(data=tmp_path, webhook_secret=given)) == given
    assert not list(tmp_path.iterdir())
