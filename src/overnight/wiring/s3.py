"""The S3 bucket that archives are kept in, by the settings."""

from typing import TYPE_CHECKING

from overnight.adapters.system import SystemEntropy
from overnight.flows.canary import try_store
from overnight.settings import Settings, SettingsError

if TYPE_CHECKING:
    from overnight.adapters.s3 import S3Archives

_EXTRA = "OVERNIGHT_S3_BUCKET: archives in a bucket need the extra `overnight[s3]`. Install it; nothing was started."
_NO_BUCKET = "OVERNIGHT_S3_BUCKET: needed to keep archives in a bucket. Nothing was started."
_HALF_A_KEY = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: set both or neither. Nothing was started."


async def checked_s3(settings: Settings) -> "S3Archives":
    """A worker whose store refuses it would run jobs and lose their files: it does not start."""
    archives = s3_bucket(settings)
    try:
        await try_store(archives, SystemEntropy())
    except OSError as error:
        raise SettingsError(f"The archive store cannot be used. {error} Nothing was started.") from error
    return archives


def s3_bucket(settings: Settings) -> "S3Archives":
    try:
        from overnight.adapters.s3 import Bucket, s3_archives  # noqa: PLC0415 - obstore may not be installed
    except ImportError:
        raise SettingsError(_EXTRA) from None
    if settings.s3_bucket is None:
        raise SettingsError(_NO_BUCKET)
    if (settings.aws_access_key_id is None) != (settings.aws_secret_access_key is None):
        raise SettingsError(_HALF_A_KEY)
    secret, token = settings.aws_secret_access_key, settings.aws_session_token
    bucket = Bucket(
        name=settings.s3_bucket,
        prefix=settings.s3_prefix,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
        session_token=token.get_secret_value() if token else None,
    )
    return s3_archives(bucket)


async def try_s3(settings: Settings) -> str:
    """What was found, in words. Raises OSError, SettingsError."""
    await try_store(s3_bucket(settings), SystemEntropy())
    folder = f", folder {settings.s3_prefix}" if settings.s3_prefix else ""
    return f"S3 bucket {settings.s3_bucket}{folder}"
