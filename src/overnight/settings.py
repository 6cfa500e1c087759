"""Every setting of overnight: the only file that reads the environment.

The plan's own names work as they are (`ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`); all others begin with
`OVERNIGHT_`. `docs/settings.md` lists them, and a test keeps the list complete.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from overnight.domain.address import CallbackPolicy
from overnight.domain.archive_names import ARCHIVES
from overnight.domain.egress import EgressPolicy, allowed_host
from overnight.domain.retention import IDEMPOTENCY_DAYS, RetentionPolicy
from overnight.domain.retry import RetryPolicy

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SECRETS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "OVERNIGHT_API_KEY",
    "OVERNIGHT_WEBHOOK_SECRET",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_ANON_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OVERNIGHT_LEDGER_TOKEN",
    "OVERNIGHT_KEYS",
    "CLOUDFLARE_API_TOKEN",
)
"""Variables that are taken out of the process's environment once they are read."""


class SettingsError(Exception):
    """A setting is wrong. The message names it and the rule it breaks, and never repeats its value."""


class Settings(BaseSettings):
    """All values with their defaults, which work on a laptop. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="OVERNIGHT_", frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    anthropic_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("ANTHROPIC_API_KEY"),
        description="The real key. It stays in the worker: runs get a token of their own.",
    )
    anthropic_auth_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("ANTHROPIC_AUTH_TOKEN"),
        description="Sent as a bearer token instead.",
    )
    anthropic_base_url: str = Field(
        "https://api.anthropic.com",
        validation_alias=AliasChoices("ANTHROPIC_BASE_URL"),
        description="The upstream that runs' API calls are passed on to.",
    )

    data: Path = Field(
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
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names, without port and comma separated, that the service answers to besides its own; any, "
        "if it listens on an address that is not loopback and this is empty.",
    )
    rehearsal: bool = Field(
        False, description="Use the built-in rehearsal API instead of Anthropic's: no key, no cost, no model."
    )

    concurrency: int = Field(2, ge=1, le=256, description="Runs at once in this process.")
    lease_seconds: float = Field(
        15.0, gt=0, description="A worker that is silent for so long has lost its job."
    )
    retry_delays: Annotated[tuple[float, ...], NoDecode] = Field(
        (10.0, 60.0, 300.0),
        description="Seconds before each retry, comma separated; their number is the limit.",
    )
    retry_jitter: float = Field(
        0.2, ge=0, le=1, description="Share by which each delay is spread, both ways."
    )
    max_worker_losses: int = Field(
        10, ge=0, description="Workers that may die under one job before it fails."
    )
    max_timeout_seconds: float = Field(
        1500.0, gt=0, description="Cap and default of a job's timeout_seconds."
    )
    idle_exit_seconds: float | None = Field(
        None,
        gt=0,
        description="After so long without a job, `overnight worker` ends, for hosts that start one when there is "
        "work; unset: it stays.",
    )
    stop_grace_seconds: float = Field(
        10.0, gt=0, description="How long an interrupted agent may take to say its last word."
    )

    isolation: Literal["auto", "namespace", "landlock", "uid", "none"] = Field(
        "auto",
        description="`namespace` needs bubblewrap, `landlock` a kernel of 6.7 or newer, `uid` root; `auto` takes the "
        "best that withstands an attack at start-up, and says which.",
    )
    min_isolation: Literal["namespace", "landlock", "uid"] = Field(
        "landlock", description="Below this tier no jobs are run: they stay queued, and `/readyz` says why."
    )
    allow_unsandboxed: Literal["i-understand"] | None = Field(
        None,
        description="`i-understand` runs jobs below `OVERNIGHT_MIN_ISOLATION` too: they can read and change "
        "everything that the service can.",
    )
    uid_base: int = Field(
        42_000,
        ge=0,
        le=2**31,
        description="First of the numeric users that runs get, one each, if the service is root; none of them, nor "
        "of the 1,023 after it, may be anybody else's. 0: runs are the service's own user.",
    )
    sandbox_memory_bytes: int = Field(
        16 * 1024**3, ge=4 * 1024**3, description="Address space of each process of a run."
    )
    sandbox_processes: int = Field(
        2048, ge=64, description="Processes and threads of a run. The kernel does not count those of root."
    )
    sandbox_open_files: int = Field(65_536, ge=256, description="Open files of each process of a run.")
    sandbox_file_bytes: int = Field(4 * 1024**3, ge=1024**2, description="Largest file that a run may write.")
    sandbox_tmp_bytes: int = Field(
        1024**3, ge=1024**2, description="Size of a run's private `/tmp`, which is memory (`namespace` only)."
    )
    sandbox_readable: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="More directories that runs may read, colon separated (a toolchain outside /usr, say).",
    )
    egress: Literal["off", "allowlist", "public"] = Field(
        "public",
        description="Where runs may connect to, by the worker's proxy, on ports 80 and 443: nowhere, to the hosts of "
        "OVERNIGHT_EGRESS_ALLOW, or to every public address.",
    )
    egress_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts of `allowlist`: exact names or `*.suffix`, comma separated."
    )
    egress_allow_private: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Networks, as CIDR, comma separated, that runs may connect to although they are private.",
    )
    setting_sources: Annotated[tuple[Literal["user", "project", "local"], ...], NoDecode] = Field(
        (),
        description="Claude Code's own settings to load from the workspace, comma separated. Hooks and servers in "
        "them run with full permissions: anything that wrote to the workspace could have put them there.",
    )
    model: str | None = Field(
        None, description="Model of jobs that name none; Claude Code's default otherwise."
    )
    agent_api_retries: int = Field(
        3, ge=0, le=10, description="Tries that Claude Code itself makes again for one API call."
    )

    archives: Literal["auto", "directory", "supabase", "s3"] = Field(
        "auto",
        description="Where archives are kept; `auto` takes the store whose address is set, and the directory "
        "`archives` below the data directory otherwise.",
    )
    archive_too_large: Literal["keep", "fail"] = Field(
        "keep",
        description="What a job does whose archive is larger than the store takes: it ends as it would, with its files "
        "set aside below `unsaved` and an event `workspace.not_saved`, or it also fails.",
    )
    supabase_url: str | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_URL"),
        pattern=r"^https?://[A-Za-z0-9.:\[\]-]+/?$",
        description="A Supabase project that archives are kept in, `https://<ref>.supabase.co` (docs/archives.md).",
    )
    supabase_secret_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_SECRET_KEY"),
        description="Its key for servers, `sb_secret_...`. The first of the three that is set is used.",
    )
    supabase_service_role_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_SERVICE_ROLE_KEY"),
        description="Its older key for servers.",
    )
    supabase_anon_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_ANON_KEY"),
        description="Its public key, which needs four policies; whoever has it can then read and change all sessions.",
    )
    supabase_bucket: str = Field(
        "content", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Bucket of archives."
    )
    supabase_prefix: str = Field(
        ARCHIVES,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Folder of the bucket that archives are kept in, for one installation alone.",
    )
    s3_bucket: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$",
        description="A bucket, of Amazon S3 or of another store that speaks S3, that archives are kept in "
        "(docs/archives-s3.md).",
    )
    s3_prefix: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$",
        max_length=200,
        description="Folder of the bucket that archives are kept in, for one installation alone.",
    )
    s3_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9.:\[\]/_-]+$",
        description="URL of a store that is not Amazon's.",
    )
    s3_region: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="The bucket's region; otherwise AWS_REGION, or `us-east-1`.",
    )
    aws_access_key_id: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_ACCESS_KEY_ID"),
        description="The bucket's key. Without one, the credentials of the machine (EC2, ECS, EKS) are used.",
    )
    aws_secret_access_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("AWS_SECRET_ACCESS_KEY"), description="Its secret part."
    )
    aws_session_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("AWS_SESSION_TOKEN"),
        description="What belongs to a key that is valid for a time.",
    )
    archive_exclude: Annotated[tuple[str, ...], NoDecode] = Field(
        (".git", "node_modules", ".cache", "dist"), description="Names left out of archives, comma separated."
    )
    archive_secrets: Literal["report", "refuse"] = Field(
        "report",
        description="What a secret found in an archive before it is stored leads to: an event `archive.secret_found`, "
        "or also that the archive is not stored and the workspace is set aside below `unsaved`. `refuse` has all of it "
        "looked at, about a minute for a gigabyte.",
    )
    archive_versions: int = Field(
        10,
        ge=1,
        description="Archives kept of each session, with the current one; each finished job makes one.",
    )
    archive_max_age_days: float | None = Field(
        None,
        gt=0,
        description="Archives older than this are deleted, whatever their number, but never the current one.",
    )
    job_retention_days: float = Field(
        90.0,
        ge=0,
        description="Jobs that ended longer ago are forgotten, with events and results; at least "
        f"{IDEMPOTENCY_DAYS}, or 0: none is. Never one that owes a webhook, or the newest of its session. Sessions and "
        "archives stay.",
    )
    checkpoint_seconds: float = Field(
        60.0,
        ge=0,
        description="Pause between checkpoints of a run, from which its next attempt goes on, on any machine; 0: none.",
    )
    warm_workspaces: int = Field(
        4,
        ge=0,
        description="Workspaces kept after their job, so that the next job of the session fetches nothing; 0: none.",
    )
    warm_max_bytes: int = Field(
        10 * 1024**3, ge=0, description="Most bytes of kept workspaces and their archives in all."
    )
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

    log: Literal["text", "json"] = Field("text", description="Form of the log on standard error.")
    redact_shapes: bool = Field(
        True,
        description="Blank what looks like a secret (API keys, tokens, private keys) out of events, results, errors "
        "and the log; the service's own secrets always are.",
    )

    webhook_secret: SecretStr | None = Field(
        None,
        description="`whsec_...`; made once and kept as `webhook-secret` in the data directory if unset.",
    )
    callback_allow_http: bool = Field(False, description="Accept http:// callback URLs.")
    callback_allow_private: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Networks, as CIDR, comma separated, that webhooks may go to although they are private.",
    )

    edge_url: str | None = Field(
        None,
        description="The edge (docs/edge.md) whose jobs `overnight worker` runs; without it, those of a service on "
        "this machine.",
    )
    ledger_token: SecretStr | None = Field(None, description="What opens the edge's ledger to this worker.")
    keys: SecretStr | None = Field(
        None,
        description="The edge's API keys as it has them, hashed: a worker signs webhooks with their secrets.",
    )
    cloudflare_account_id: str | None = Field(
        None,
        validation_alias=AliasChoices("CLOUDFLARE_ACCOUNT_ID"),
        description="The account of the edge's queue.",
    )
    cloudflare_api_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("CLOUDFLARE_API_TOKEN"),
        description="A token with the permissions Queues Read and Write.",
    )
    cloudflare_api_url: str = Field(
        "https://api.cloudflare.com/client/v4",
        description="Cloudflare's API, which the queue is pulled from.",
    )
    cloudflare_queue_id: str | None = Field(None, description="The id of the queue `claude-code-queue`.")

    @field_validator(
        "retry_delays",
        "archive_exclude",
        "callback_allow_private",
        "allowed_hosts",
        "egress_allow",
        "egress_allow_private",
        "setting_sources",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return _split(value, ",")

    @field_validator("sandbox_readable", mode="before")
    @classmethod
    def _split_colons(cls, value: Any) -> Any:
        return _split(value, ":")

    @field_validator("egress_allow")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(allowed_host(entry) for entry in value)

    @field_validator("job_retention_days")
    @classmethod
    def _not_before_its_key(cls, value: float) -> float:
        if 0 < value < IDEMPOTENCY_DAYS:
            raise ValueError(
                f"must be at least {IDEMPOTENCY_DAYS}, or 0 to forget no job: idempotency keys are promised to answer "
                f"with their job for {IDEMPOTENCY_DAYS} days"
            )
        return value

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            delays=self.retry_delays, jitter=self.retry_jitter, max_losses=self.max_worker_losses
        )

    @property
    def supabase_key(self) -> SecretStr | None:
        """The one with the most rights: a public key makes every refusal look like nothing."""
        return self.supabase_secret_key or self.supabase_service_role_key or self.supabase_anon_key

    @property
    def retention_policy(self) -> RetentionPolicy:
        days = self.archive_max_age_days
        return RetentionPolicy(
            versions=self.archive_versions, max_age_seconds=None if days is None else days * 86_400
        )

    @property
    def callback_policy(self) -> CallbackPolicy:
        return CallbackPolicy(allow_http=self.callback_allow_http, allow_private=self.callback_allow_private)

    @property
    def egress_policy(self) -> EgressPolicy:
        return EgressPolicy(
            mode=self.egress,
            allow=self.egress_allow,
            addresses=CallbackPolicy(allow_private=self.egress_allow_private),
        )


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
    for name in SECRETS:
        os.environ.pop(name, None)
    return settings


def _split(value: Any, separator: str) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(separator) if part.strip())
    return value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        field = str(problem["loc"][0]).lower()
        known = Settings.model_fields.get(field)
        name = f"OVERNIGHT_{field.upper()}" if known and not known.validation_alias else field.upper()
        lines.append(f"{name}: {problem['msg']}")
    return "wrong setting: " + "; ".join(lines)
