"""What a call to overnight can fail with.

OvernightError
├── ApiProblem          the service answered, and said no (or something in between did)
├── ServiceUnreachable  no answer: nobody listens there, or the connection broke
└── DamagedDownload     the bytes that arrived are not the bytes that the service named
"""

from collections.abc import Sequence
from dataclasses import dataclass


class OvernightError(Exception):
    """Everything that a client raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing in a request that does not fit; `pointer` is a JSON pointer to it."""

    pointer: str
    detail: str


class ApiProblem(OvernightError):
    """A refusal. `code` is stable and meant for programs, `detail` and `faults` for people.

    `retry_after` is in seconds, None if the service named no time.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.request_id = request_id
        self.retry_after = retry_after


class ServiceUnreachable(OvernightError):
    """`reason` is a short class of failure in words; it holds no address beyond `url`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason


class DamagedDownload(OvernightError):
    """Nothing was kept of it."""
