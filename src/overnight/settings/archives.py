"""The settings of archives: which store keeps them, what goes into them, how many are kept."""

from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from overnight.domain.archive_names import ARCHIVES
from overnight.domain.retention import RetentionPolicy
from overnight.settings.forms import CommaSeparated, Group


class ArchiveSettings(Group):
    """Archives"""

    archives: Literal["auto", "directory", "supabase", "s3"] = Field(
        "auto",
        description="Where archives are kept; `auto` takes the store whose address is set, and the directory "
        "`archives` below the data directory otherwise; with two addresses set, say which.",
    )
    archive_exclude: CommaSeparated[str] = Field(
        (".git", "node_modules", ".cache", "dist"), description="Names left out of archives, comma separated."
    )
    archive_secrets: Literal["report", "refuse"] = Field(
        "report",
        description="What a secret found in an archive before it is stored leads to: an event `archive.secret_found`, "
        "or also that the archive is not stored and the workspace is set aside below `unsaved`. `refuse` has all of it "
        "looked at, about a minute for a gigabyte.",
    )
    archive_too_large: Literal["keep", "fail"] = Field(
        "keep",
        description="What a job does whose archive is larger than the store takes: it ends as it would, with its files "
        "set aside below `unsaved` and an event `workspace.not_saved`, or it also fails.",
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
    warm_workspaces: int = Field(
        4,
        ge=0,
        description="Workspaces kept after their job, so that the next job of the session fetches nothing; 0: none.",
    )
    warm_max_bytes: int = Field(
        10 * 1024**3, ge=0, description="Most bytes of kept workspaces and their archives in all."
    )

    @property
    def retention_policy(self) -> RetentionPolicy:
        days = self.archive_max_age_days
        return RetentionPolicy(
            versions=self.archive_versions, max_age_seconds=None if days is None else days * 86_400
        )


class SupabaseSettings(Group):
    """Archives in Supabase Storage"""

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

    @property
    def supabase_key(self) -> SecretStr | None:
        """The one with the most rights: a public key makes every refusal look like nothing."""
        return self.supabase_secret_key or self.supabase_service_role_key or self.supabase_anon_key


class S3Settings(Group):
    """Archives in an S3 bucket"""

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
