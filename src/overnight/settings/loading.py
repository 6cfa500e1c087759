"""All settings together, and how they are read from the environment."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import SecretStr, ValidationError

from overnight.settings.archives import ArchiveSettings, S3Settings, SupabaseSettings
from overnight.settings.edge import EdgeSettings
from overnight.settings.runs import JobSettings, ModelSettings, SandboxSettings
from overnight.settings.service import RequestSettings, ServiceSettings, WebhookSettings

_OURS = "OVERNIGHT_"
_NEAR = 0.8
"""As `difflib` measures: two letters of ten may differ."""


class SettingsError(Exception):
    """A setting is wrong. The message names it and the rule it breaks, and never repeats its value."""


class Settings(
    ModelSettings,
    ServiceSettings,
    RequestSettings,
    WebhookSettings,
    JobSettings,
    SandboxSettings,
    ArchiveSettings,
    SupabaseSettings,
    S3Settings,
    EdgeSettings,
):
    """All values with their defaults, which work on a laptop. Durations are in seconds, sizes in bytes."""

    def secrets(self) -> Mapping[str, str]:
        """By the names of their settings, those that are set: what must never be told."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)
        }


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return name.upper() if Settings.model_fields[name].validation_alias else f"{_OURS}{name.upper()}"


def load(**overrides: Any) -> Settings:
    """Settings from the environment, with the overrides (a command line's) on top; None overrides nothing.

    Secrets are removed from the environment afterwards, so that no child can inherit them. Raises
    SettingsError.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    # The plan's own names are read with our prefix too (`populate_by_name`).
    secret = {read for name in settings.secrets() for read in (variable(name), f"{_OURS}{name.upper()}")}
    spelled = [name for name in os.environ if name.upper() in secret]  # they are read in any case of letters
    for name in spelled:
        del os.environ[name]
    return settings


def mistaken() -> dict[str, str | None]:
    """Variables of the environment that are named like ours and are no setting, with the name that may be meant: a
    misspelt limit does not hold."""
    known = [f"{_OURS}{name.upper()}" for name in Settings.model_fields]
    names = {name.upper() for name in os.environ}
    return {
        name: _meant(name, known) for name in sorted(names) if name.startswith(_OURS) and name not in known
    }


def _meant(name: str, known: Iterable[str]) -> str | None:
    ends = [own.removeprefix(_OURS) for own in known]
    near = get_close_matches(name.removeprefix(_OURS), ends, 1, _NEAR)
    return _OURS + near[0] if near else None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem["loc"][0]).lower()
        lines.append(f"{variable(name)}: {problem['msg']}")
    return "wrong setting: " + "; ".join(lines)
