"""Writes docs/settings.md from the settings themselves: `python scripts/settings_page.py > docs/settings.md`."""

from overnight.settings import Settings


def shown(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return "`" + ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value) + "`"
    if isinstance(value, bool):
        return "`1`" if value else "`0`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


print("# Settings\n")
print(
    "All are environment variables; a command's own options are stronger. Durations are in seconds, sizes in bytes."
)
print("This page is made by `scripts/settings_page.py`, and a test keeps it complete.\n")
print("| variable | default | what it does |\n|---|---|---|")
for name, field in Settings.model_fields.items():
    variable = name.upper() if field.validation_alias else f"OVERNIGHT_{name.upper()}"
    print(f"| `{variable}` | {shown(field.default)} | {field.description} |")
