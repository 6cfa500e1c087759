"""What the groups of settings have in common, and the forms that their values have in a variable."""

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

T = TypeVar("T")


class Group(BaseSettings):
    """The first line of a group's docstring is its heading in docs/settings.md."""

    model_config = SettingsConfigDict(
        env_prefix="OVERNIGHT_",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, told: ValidationInfo) -> Any:
        """A file of variables lists names that have no value yet. Where there is a default, that stays an error."""
        unset = value == "" and cls.model_fields[told.field_name or ""].default is None
        return None if unset else value


def _split(separator: str) -> BeforeValidator:
    def parts(value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(separator) if part.strip())
        return value

    return BeforeValidator(parts)


def _url(text: str) -> str:
    """A name or password in it would be told: it is no secret."""
    host = r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)"
    if re.fullmatch(rf"https?://{host}(:[0-9]{{1,5}})?(/[^\s?#]*)?", text) is None:
        raise ValueError("must be http:// or https://, a host, and nothing secret, no ? and no #")
    return text


Url = Annotated[str, AfterValidator(_url)]
CommaSeparated = Annotated[tuple[T, ...], NoDecode, _split(",")]
ColonSeparated = Annotated[tuple[T, ...], NoDecode, _split(":")]
Network = IPv4Network | IPv6Network
