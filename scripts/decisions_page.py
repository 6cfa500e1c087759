"""Writes the list of the decisions from their titles: `python scripts/decisions_page.py > docs/decisions/README.md`."""

import re
from pathlib import Path

DECISIONS = Path(__file__).parent.parent / "docs" / "decisions"

print("""# Decisions

Where the code departs from the design it grew from, or chose between ways that were all possible. One page each:
what was chosen, why, and what would make us choose again. Numbers have gaps: they were given out in blocks.
This list is made by `make docs`.
""")
for page in sorted(DECISIONS.glob("[0-9]*.md")):
    heading, _, _ = page.read_text(encoding="utf-8").partition("\n")
    print(re.sub(r"# 0*(\d+)\W* (.*)", rf"- \1: [\2]({page.name})", heading))
