"""Which project, bucket and folder, and with which key."""

import re
from dataclasses import dataclass, field

from overnight.archive.names import check_name, check_prefix
from overnight.domain.archive_names import ARCHIVES

INCOMING = ".incoming"
"""Below the folder: uploads that have no name yet. No archive's name begins with a dot."""
_HOSTED = re.compile(r"(https://[a-z0-9]+)\.supabase\.(co|in|red)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`url` is the project's, without a path; `key` of any kind (facts: supabase 6). In the bucket, the folder `prefix`
    stands for the first component of every archive's name."""

    url: str
    key: str = field(repr=False)
    bucket: str = "content"
    prefix: str = ARCHIVES

    @property
    def rest(self) -> str:
        return f"{self.url.rstrip('/')}/storage/v1"

    @property
    def resumable(self) -> str:
        """Large uploads to a hosted project go to the storage host itself, as its documentation asks."""
        direct = _HOSTED.sub(r"\1.storage.supabase.\2", self.url.rstrip("/"))
        return f"{direct}/storage/v1/upload/resumable"

    @property
    def headers(self) -> dict[str, str]:
        """Keys of the new kind are no tokens: a bearer header would have to be the same, and adds nothing."""
        if self.key.startswith("sb_"):
            return {"apikey": self.key}
        return {"apikey": self.key, "authorization": f"Bearer {self.key}"}

    def key_of(self, name: str) -> str:
        """The object that an archive is kept as. Raises ValueError."""
        root, _, rest = check_name(name).partition("/")
        if root != ARCHIVES:
            raise ValueError("not a name of an archive of a session")
        return f"{self.prefix}/{rest}"

    def name_of(self, key: str) -> str:
        return ARCHIVES + key.removeprefix(self.prefix)

    def folder_of(self, prefix: str) -> str | None:
        """The innermost folder that all names with this beginning are in; None if there can be none."""
        root, slash, rest = check_prefix(prefix).partition("/")
        if not slash:
            return self.prefix if ARCHIVES.startswith(root) else None
        folder, _, _ = rest.rpartition("/")
        return "/".join(filter(None, (self.prefix, folder))) if root == ARCHIVES else None
