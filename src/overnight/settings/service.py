"""The settings of the API: where it listens, what it takes, what it tells, and to whom."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from overnight.domain.address import CallbackPolicy
from overnight.domain.signature import parse_secret
from overnight.settings.forms import CommaSeparated, Group, Network


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _parsed(secret: SecretStr) -> SecretStr:
    parse_secret(secret.get_secret_value())
    return secret


class ServiceSettings(Group):
    """The service"""

    data: Annotated[Path, AfterValidator(_absolute)] = Field(
        Path("~/.local/share/overnight"),
        description="Where the database, archives and running jobs are kept.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the API; 0 takes a free one.")
    url: str | None = Field(None, description="The service that the command line and the client talk to.")
    api_key: SecretStr | None = Field(
        None, description="The key, `ovn_...`, that the command line sends to the service (docs/keys.md)."
    )
    allow_public: bool = Field(
        False,
        description="Serve on an address that is not loopback although no API key was made: whoever reaches it "
        "can run anything.",
    )
    allowed_hosts: CommaSeparated[str] = Field(
        (),
        description="Names, without port and comma separated, that the service answers to besides its own; any, "
        "if it listens on an address that is not loopback and this is empty.",
    )
    log: Literal["text", "json"] = Field("text", description="Form of the log on standard error.")
    redact_shapes: bool = Field(
        True,
        description="Blank what looks like a secret (API keys, tokens, private keys) out of events, results, errors "
        "and the log; the service's own secrets always are.",
    )


class RequestSettings(Group):
    """Requests"""

    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest JSON body of a request.")
    max_archive_bytes: int = Field(512 * 1024 * 1024, ge=1024, description="Largest archive of an upload.")
    max_queued: int = Field(
        100_000, ge=1, description="Waiting jobs of all owners, before new ones get a 503."
    )
    min_free_disk_bytes: int = Field(
        256 * 1024 * 1024,
        ge=0,
        description="With less free disk than this, no new job or upload is taken (507).",
    )
    upload_max_entries: int = Field(20_000, ge=1, description="Most files and directories in an upload.")
    upload_max_file_bytes: int = Field(
        512 * 1024 * 1024, ge=1, description="Largest file in an upload, unpacked."
    )
    upload_max_content_bytes: int = Field(
        2 * 1024 * 1024 * 1024, ge=1, description="Most bytes in an upload, unpacked."
    )


class WebhookSettings(Group):
    """Webhooks"""

    webhook_secret: Annotated[SecretStr, AfterValidator(_parsed)] | None = Field(
        None,
        description="`whsec_...`; made once and kept as `webhook-secret` in the data directory if unset.",
    )
    callback_allow_http: bool = Field(False, description="Accept http:// callback URLs.")
    callback_allow_private: CommaSeparated[Network] = Field(
        (),
        description="Networks, as CIDR, comma separated, that webhooks may go to although they are private.",
    )

    @property
    def callback_policy(self) -> CallbackPolicy:
        return CallbackPolicy(allow_http=self.callback_allow_http, allow_private=self.callback_allow_private)
