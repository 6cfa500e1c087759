"""What this process must never tell, and what blanks it out."""

import os
import tempfile
from pathlib import Path

from overnight.archive import fsync_directory
from overnight.domain.redaction import Redactor
from overnight.domain.signature import new_secret, parse_secret
from overnight.settings import Settings, SettingsError


def redactor_of(settings: Settings) -> Redactor:
    """What blanks this process's secrets out of everything that it tells."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets = {**settings.secrets(), "webhook_secret": webhook_secret(settings)}
    return Redactor(secrets, shapes=settings.redact_shapes)


def webhook_secret(settings: Settings) -> str:
    """The secret that webhooks are signed with: the setting, or one made once and kept beside the database.

    Raises SettingsError, OSError.
    """
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    path = settings.data / "webhook-secret"
    if not path.exists():
        propose(path, new_secret(os.urandom(32)))
    secret = path.read_text(errors="replace").strip()
    try:
        parse_secret(secret)
    except ValueError as error:
        raise SettingsError(
            f"{path}: {error}. Put back the one that receivers know, or delete the file: then a new one is made."
        ) from None
    return secret


def propose(path: Path, text: str) -> None:
    """Keep the line whole, on disk and for its owner only, unless another process was first. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        _give_name(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    fsync_directory(path.parent)


def _give_name(draft: Path, path: Path) -> None:
    """To the first who asks. Where there are no hard links two that ask in the same moment may both get it."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError:
        if not path.exists():
            draft.rename(path)
