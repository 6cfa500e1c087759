"""The settings of runs: what they talk to, how often they are tried, what they may do."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr

from overnight.domain.address import CallbackPolicy
from overnight.domain.egress import EgressPolicy, allowed_host
from overnight.domain.retention import IDEMPOTENCY_DAYS
from overnight.domain.retry import RetryPolicy
from overnight.settings.forms import ColonSeparated, CommaSeparated, Group, Network, Url


def _not_before_its_key(days: float) -> float:
    if 0 < days < IDEMPOTENCY_DAYS:
        raise ValueError(
            f"must be at least {IDEMPOTENCY_DAYS}, or 0 to forget no job: idempotency keys are promised to answer "
            f"with their job for {IDEMPOTENCY_DAYS} days"
        )
    return days


Retention = Annotated[float, Field(ge=0), AfterValidator(_not_before_its_key)]
Delay = Annotated[float, Field(ge=0)]
Host = Annotated[str, AfterValidator(allowed_host)]


class ModelSettings(Group):
    """The model"""

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
    anthropic_base_url: Url = Field(
        "https://api.anthropic.com",
        validation_alias=AliasChoices("ANTHROPIC_BASE_URL"),
        description="The upstream that runs' API calls are passed on to.",
    )
    rehearsal: bool = Field(
        False, description="Use the built-in rehearsal API instead of Anthropic's: no key, no cost, no model."
    )
    model: str | None = Field(
        None, description="Model of jobs that name none; Claude Code's default otherwise."
    )
    agent_api_retries: int = Field(
        3, ge=0, le=10, description="Tries that Claude Code itself makes again for one API call."
    )

    @property
    def lacks_key(self) -> bool:
        """Every job would fail at its first call."""
        return not (self.rehearsal or self.anthropic_api_key or self.anthropic_auth_token)


class JobSettings(Group):
    """Jobs"""

    concurrency: int = Field(2, ge=1, le=256, description="Runs at once in this process.")
    lease_seconds: float = Field(
        15.0, gt=0, description="A worker that is silent for so long has lost its job."
    )
    retry_delays: CommaSeparated[Delay] = Field(
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
    stop_grace_seconds: float = Field(
        10.0, gt=0, description="How long an interrupted agent may take to say its last word."
    )
    checkpoint_seconds: float = Field(
        60.0,
        ge=0,
        description="Pause between checkpoints of a run, from which its next attempt goes on, on any machine; 0: none.",
    )
    idle_exit_seconds: float | None = Field(
        None,
        gt=0,
        description="After so long without a job, `overnight worker` ends, for hosts that start one when there is "
        "work; unset: it stays.",
    )
    job_retention_days: Retention = Field(
        90.0,
        description="Jobs that ended longer ago are forgotten, with events and results; at least "
        f"{IDEMPOTENCY_DAYS}, or 0: none is. Never one that owes a webhook, or the newest of its session. Sessions and "
        "archives stay.",
    )

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            delays=self.retry_delays, jitter=self.retry_jitter, max_losses=self.max_worker_losses
        )


class SandboxSettings(Group):
    """The sandbox"""

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
    sandbox_readable: ColonSeparated[Path] = Field(
        (),
        description="More directories that runs may read, colon separated (a toolchain outside /usr, say).",
    )
    egress: Literal["off", "allowlist", "public"] = Field(
        "public",
        description="Where runs may connect to, by the worker's proxy, on ports 80 and 443: nowhere, to the hosts of "
        "OVERNIGHT_EGRESS_ALLOW, or to every public address.",
    )
    egress_allow: CommaSeparated[Host] = Field(
        (), description="Hosts of `allowlist`: exact names or `*.suffix`, comma separated."
    )
    egress_allow_private: CommaSeparated[Network] = Field(
        (),
        description="Networks, as CIDR, comma separated, that runs may connect to although they are private.",
    )
    setting_sources: CommaSeparated[Literal["user", "project", "local"]] = Field(
        (),
        description="Claude Code's own settings to load from the workspace, comma separated. Hooks and servers in "
        "them run with full permissions: anything that wrote to the workspace could have put them there.",
    )

    @property
    def egress_policy(self) -> EgressPolicy:
        return EgressPolicy(
            mode=self.egress,
            allow=self.egress_allow,
            addresses=CallbackPolicy(allow_private=self.egress_allow_private),
        )
