"""Writes docs/settings.md from the settings themselves: `python scripts/settings_page.py > docs/settings.md`."""

import inspect
from collections.abc import Mapping
from typing import Any

from overnight.settings import Settings, variable


def shown(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return "`" + ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value) + "`"
    if isinstance(value, bool):
        return "`1`" if value else "`0`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def taken(rule: Mapping[str, Any]) -> str:
    """What of the JSON schema of a setting bounds it, in words."""
    rule = rule.get("anyOf", [rule])[0]
    if "items" in rule:
        each = taken(rule["items"])
        return each and f"each {each}"
    choices = (
        {"boolean": ["1", "0"]}.get(rule["type"]) or rule.get("enum") or [*filter(None, [rule.get("const")])]
    )
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if "exclusiveMinimum" in rule:
        return f"above {rule['exclusiveMinimum']}"
    least, most = rule.get("minimum"), rule.get("maximum")
    return "" if least is None else f"at least {least}" if most is None else f"{least} to {most}"


print("# Settings\n")
print(
    "All are environment variables; a command's own options are stronger. Durations are in seconds, sizes in bytes.\n"
    "A variable that is empty counts as unset where there is no default. `serve`, `worker` and `doctor` say which "
    "`OVERNIGHT_` variables are no settings: a misspelt limit does not hold."
)
print("This page is made by `scripts/settings_page.py`, and a test keeps it true.\n")
rules = Settings.model_json_schema(by_alias=False)["properties"]
for group in Settings.__bases__:
    print(f"## {inspect.cleandoc(group.__doc__ or '')}\n")
    print("| variable | default | takes | what it does |\n|---|---|---|---|")
    for name, field in group.model_fields.items():
        print(f"| `{variable(name)}` | {shown(field.default)} | {taken(rules[name])} | {field.description} |")
    print()
