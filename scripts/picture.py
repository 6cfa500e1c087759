"""Runs the demo and draws what it printed as docs/demo.svg, the picture in the README."""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "demo.svg"
WIDTH = 108
STYLES = {
    "$": "bold bright_white",
    "●": "cyan",
    "✓": "bold green",
    "✗": "red",
    "·": "bright_black",
    "go on:": "bright_black",
    "archive:": "bright_black",
    "job ": "bold",
}
UNTIL = "The same by hand:"


def main() -> int:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        return 1
    told, _, _ = done.stdout.replace(str(ROOT), "~/overnight").partition(UNTIL)
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, highlight=False)
        for line in told.rstrip().splitlines():
            style = next((style for start, style in STYLES.items() if line.startswith(start)), "")
            console.print(Text(line, style=style, overflow="ellipsis", no_wrap=True))
        drawing = console.export_svg(title="make demo", unique_id="demo")
    # Without the fonts that rich would have every reader of the README load from elsewhere.
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in drawing.splitlines() if line.strip()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
