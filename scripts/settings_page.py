"""Writes docs/settings.md from the settings themselves: `python scripts/settings_page.py > docs/settings.md`."""

import inspect
from typing import Literal, get_args, get_origin

from overnight.settings import Settings, variable


def shown(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return "`" + ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value) + "`"
    if isinstance(value, bool):
        return "`1`" if value else "`0`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def choices(annotation: object) -> str:
    """What a setting may be, if that is a closed list."""
    if get_origin(annotation) is not Literal:
        return ""
    return " One of " + ", ".join(f"`{value}`" for value in get_args(annotation)) + "."


print("# Settings\n")
print(
    "All are environment variables; a command's own options are stronger. Durations are in seconds, sizes in bytes.\n"
    "A variable that is empty counts as unset where there is no default."
)
print("This page is made by `scripts/settings_page.py`, and a test keeps it complete.\n")
for group in Settings.__bases__:
    print(f"## {inspect.cleandoc(group.__doc__ or '')}\n")
    print("| variable | default | what it does |\n|---|---|---|")
    for name, field in group.model_fields.items():
        print(
            f"| `{variable(name)}` | {shown(field.default)} | {field.description}{choices(field.annotation)} |"
        )
    print()
