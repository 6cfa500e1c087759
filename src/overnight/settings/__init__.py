"""Every setting of overnight: the only package that reads the environment.

The plan's own names work as they are (`ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`); all others begin with
`OVERNIGHT_`. `docs/settings.md` lists them, and a test keeps the list complete.
"""

from overnight.settings.loading import Settings, SettingsError, load, mistaken, variable

__all__ = ["Settings", "SettingsError", "load", "mistaken", "variable"]
