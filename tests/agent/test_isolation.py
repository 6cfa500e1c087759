"""The tier is proved by a probe: what does not hold is not believed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from overnight.agent.isolation import IsolationUnavailable, choose_tier


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Put a program in the place of bwrap; None: there is none."""

    def install(script: str | None) -> None:
        directory = tmp_path / "bin"
        directory.mkdir()
        if script is not None:
            (directory / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
            (directory / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", str(directory))

    return install


async def test_bubblewrap_is_proved(tmp_path: Path) -> None:
    tier = await choose_tier("auto", data=tmp_path)
    assert tier.name == "namespace"
    assert [path.name for path in tmp_path.iterdir()] == ["launch"], "the probe leaves nothing behind"  # noqa: ASYNC240


async def test_without_bubblewrap_the_remedy_is_named(
    tmp_path: Path, programs: Callable[[str | None], None]
) -> None:
    programs(None)
    with pytest.raises(IsolationUnavailable, match="apt-get install bubblewrap"):
        await choose_tier("namespace", data=tmp_path)
    tier = await choose_tier("auto", data=tmp_path)
    assert tier.name == "none"
    assert "NOT ISOLATED" in tier.report
    assert "bubblewrap" in tier.report


async def test_a_bubblewrap_that_does_not_isolate_is_not_believed(
    tmp_path: Path, programs: Callable[[str | None], None]
) -> None:
    # It only changes to the workspace; its descriptor 3 is the file of arguments, which lies in `run`.
    programs(
        'export PATH=/usr/bin:/bin; root=$(dirname "$(dirname "$(readlink /proc/$$/fd/3)")")\n'
        'shift 3; cd "$root/files" && exec "$root/probe" "$@"'
    )
    with pytest.raises(IsolationUnavailable) as refused:
        await choose_tier("namespace", data=tmp_path)
    assert "shares the PID namespace" in str(refused.value)
    assert "can be seen" in str(refused.value)


async def test_a_bubblewrap_that_is_not_allowed_says_why(
    tmp_path: Path, programs: Callable[[str | None], None]
) -> None:
    programs("echo 'No permissions to create new namespace' >&2; exit 1")
    with pytest.raises(IsolationUnavailable, match="No permissions to create new namespace"):
        await choose_tier("namespace", data=tmp_path)


@pytest.mark.parametrize("place", [".", "..", "absent"])
async def test_a_wrong_list_of_readable_directories_does_not_turn_isolation_off(
    tmp_path: Path, place: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(IsolationUnavailable, match="OVERNIGHT_SANDBOX_READABLE"):
        await choose_tier("auto", data=data, readable=((data / place),))


async def test_none_is_what_it_says(tmp_path: Path) -> None:
    tier = await choose_tier("none", data=tmp_path)
    assert tier.name == "none"
    assert tier.as_root == (os.geteuid() == 0)
