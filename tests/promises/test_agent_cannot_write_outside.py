"""Neither Bash nor Claude Code's own tools change a file outside of the workspace, its home and its temporary files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


async def test_files_of_the_host_stay_as_they_are(attacker: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("as it was")
    (attacker.files / "link").symlink_to(victim)
    (attacker.files / "way-out").symlink_to(outside)
    shell = (
        f"echo x >{victim}; echo x >link; echo x >way-out/made; ln {victim} hard; chmod 777 {victim}; rm -f {victim};"
        f"touch {outside}/made /etc/made /usr/made /made ../made; mkdir {outside}/dir; mount -t tmpfs none {outside};"
        "echo x >inside && cat inside"
    )
    write = {"file_path": str(outside / "made"), "content": "x"}
    through = {"file_path": str(attacker.files / "way-out" / "made"), "content": "x"}
    await attacker.run(
        f"tool Bash {json.dumps({'command': shell})}",
        f"tool Write {json.dumps(write)}",
        f"tool Write {json.dumps(through)}",
    )
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert victim.read_text() == "as it was"
    assert not any(map(os.path.exists, ("/etc/made", "/usr/made", "/made")))
    assert not (attacker.workspace.root / "made").exists()
    assert (attacker.files / "inside").read_text() == "x\n"


async def test_other_sessions_cannot_be_read(attacker: Any) -> None:
    other = attacker.workspace.root.parent / "other" / "files"
    other.mkdir(parents=True)
    (other / "secret").write_text("OF-ANOTHER-TENANT")
    (attacker.files / "link").symlink_to(other / "secret")
    places = f"{other}/secret link /etc/shadow"
    seen = await attacker.bash(f"cat {places}; ls -R {attacker.workspace.root.parent}; echo looked")
    assert "looked" in seen
    assert "OF-ANOTHER-TENANT" not in seen
    assert "root:" not in seen
