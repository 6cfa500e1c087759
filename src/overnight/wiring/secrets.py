"""What this process must never tell, and what blanks it out."""

import os

from overnight.domain.redaction import Redactor
from overnight.domain.signature import new_secret
from overnight.settings import Settings


def redactor_of(settings: Settings) -> Redactor:
    """What blanks this process's secrets out of everything that it tells."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    loaded = {
        "api_key": settings.anthropic_api_key,
        "auth_token": settings.anthropic_auth_token,
        "supabase_key": settings.supabase_key,
        "aws_secret_access_key": settings.aws_secret_access_key,
        "aws_session_token": settings.aws_session_token,
        "ledger_token": settings.ledger_token,
        "cloudflare_api_token": settings.cloudflare_api_token,
    }
    secrets = {kind: secret.get_secret_value() for kind, secret in loaded.items() if secret is not None}
    return Redactor({**secrets, "webhook_secret": webhook_secret(settings)}, shapes=settings.redact_shapes)


def webhook_secret(settings: Settings) -> str:
    """The secret that webhooks are signed with: the setting, or one made once and kept beside the database."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    path = settings.data / "webhook-secret"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        secret = new_secret(os.urandom(32))
        file.write(f"{secret}\n")
    return secret
