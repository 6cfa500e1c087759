"""Text for people: made safe for a terminal, short, and in columns."""

import re
from collections.abc import Sequence
from datetime import datetime

# Everything that a terminal obeys instead of showing (C0 but tab and newline, DEL, C1), everything that makes
# text read as something else than it is (bidi controls, invisible separators, tags), and lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)

NO_CLIENT = (
    "the official client of Cloudflare is missing: `pip install 'overnight[cloudflare]'` (in a clone: "
    "`.venv/bin/pip install '.[cloudflare]'`). Nothing was done."
)


def visible(text: str) -> str:
    """The text with every control shown as an escape: an agent's words cannot steer the terminal."""
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def first_line(text: str, width: int) -> str:
    """At most `width` characters of the first line that has any, safe to print."""
    line = next((line.strip() for line in visible(text).splitlines() if line.strip()), "")
    return line if len(line) <= width else line[: width - 1] + "…"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with aligned columns, whole: an id that is cut off is of no use."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def moment(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else "-"


def money(dollars: float) -> str:
    return f"${dollars:.4f}" if dollars < 1 else f"${dollars:.2f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    amount, units = count / 1024, iter(("KiB", "MiB", "GiB"))
    unit = next(units)
    while amount >= 1024 and unit != "GiB":
        amount, unit = amount / 1024, next(units)
    return f"{amount:.1f} {unit}"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
