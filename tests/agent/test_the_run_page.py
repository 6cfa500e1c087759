"""docs/the-run.md says what the code does."""

import re
from pathlib import Path

from overnight.agent.environment import View, environment
from overnight.domain.retry import FAILURES, Failure

PAGE = (Path(__file__).parents[2] / "docs" / "the-run.md").read_text(encoding="utf-8")
TRIED_AGAIN = {Failure.TRANSIENT: "yes", Failure.LATER: "when the limit is over", Failure.PERMANENT: "no"}


def table(name: str) -> dict[str, str]:
    rows = PAGE.split(f"<!-- {name} -->\n")[1].split("\n\n")[0].splitlines()[2:]
    cells = [re.fullmatch(r"\| `([^`]+)` \| ([^|]+) \|.*", row) for row in rows]
    assert all(cells), rows
    return {found[1]: found[2] for found in cells if found}


def test_the_table_of_failures() -> None:
    assert table("failures") == {code.value: TRIED_AGAIN[kind] for code, kind in FAILURES.items()}


def test_the_table_of_the_environment() -> None:
    here = Path("/x")
    view = View(files=here, home=here, config=here, temporary=here, given=here)

    def names(as_root: bool) -> set[str]:
        return set(
            environment(
                view, gateway="u", proxy="v", token="t", mark="m", project="p", api_retries=3, as_root=as_root
            )
        )

    assert names(as_root=False) == set(table("environment"))
    assert names(as_root=True) - names(as_root=False) == {"IS_SANDBOX"}
    assert "IS_SANDBOX" in PAGE
