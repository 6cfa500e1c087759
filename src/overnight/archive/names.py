"""The names of stored archives: paths of plain components, the same in a directory and in a bucket."""

import re

_COMPONENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_NAME = re.compile(rf"(?:{_COMPONENT}/){{0,7}}{_COMPONENT}\.zip")
_PREFIX = re.compile(rf"(?:{_COMPONENT}/){{0,7}}(?:{_COMPONENT})?")


def check_name(name: str) -> str:
    """The name itself; raises ValueError if it could be anything but an archive below the root.

    No component begins with a dot, so none is `..` and none meets a store's own files; only the last
    ends in `.zip`, so no archive is another's directory.
    """
    if not _NAME.fullmatch(name) or any(part.endswith(".zip") for part in name.split("/")[:-1]):
        raise ValueError("not a name of an archive")
    return name


def check_prefix(prefix: str) -> str:
    """The beginning of a name, or ""; raises ValueError."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("not a prefix of names of archives")
    return prefix
