"""What an answer of Supabase Storage means. Judged by its body: nearly every error has the HTTP status 400."""

import json
from collections.abc import Mapping
from enum import Enum, auto


class Fault(Enum):
    MISSING = auto()
    """There is surely no such object, as far as this key may see: a right that lacks looks the same."""
    TAKEN = auto()
    DENIED = auto()
    NO_BUCKET = auto()
    """No such bucket; a key that is wrong or has expired looks the same in places."""
    TOO_LARGE = auto()
    GONE = auto()
    """A resumable upload that has expired or was never there."""
    PASSING = auto()
    """Worth another try."""
    REFUSED = auto()
    """Anything else: another try gets the same answer."""


_BY_CODE: Mapping[str, Fault] = {
    "NoSuchBucket": Fault.NO_BUCKET,
    "KeyAlreadyExists": Fault.TAKEN,
    "ResourceAlreadyExists": Fault.TAKEN,
    "AccessDenied": Fault.DENIED,
    "InvalidJWT": Fault.DENIED,
    "InvalidSignature": Fault.DENIED,
    "SignatureDoesNotMatch": Fault.DENIED,
    "EntityTooLarge": Fault.TOO_LARGE,
    "InvalidMimeType": Fault.REFUSED,
    "InvalidKey": Fault.REFUSED,
    "SlowDown": Fault.PASSING,
    "too_many_connections": Fault.PASSING,
    "DatabaseTimeout": Fault.PASSING,
    "LockTimeout": Fault.PASSING,
    "ResourceLocked": Fault.PASSING,
    "InternalError": Fault.PASSING,
}
_BY_STATUS: Mapping[int, Fault] = {
    401: Fault.DENIED,
    403: Fault.DENIED,
    404: Fault.GONE,
    408: Fault.PASSING,
    409: Fault.TAKEN,
    410: Fault.GONE,
    413: Fault.TOO_LARGE,
    423: Fault.PASSING,
    429: Fault.PASSING,
}
"""Of answers without a code: those of the gateway, and plain text of the resumable protocol."""


class StorageFault(Exception):
    """An answer that is an error. `code` is the server's word for it, without anything that was sent."""

    def __init__(self, fault: Fault, code: str) -> None:
        super().__init__(f"{fault.name}: {code}")
        self.fault = fault
        self.code = code


def fault_of(status: int, body: bytes) -> StorageFault:
    told = _object(body)
    code = str(told.get("code") or f"HTTP {_status(status, told)}")
    return StorageFault(classify(status, body), code)


def classify(status: int, body: bytes) -> Fault:
    """Only the body that a true miss has is MISSING: a read that races an overwrite gets a false 404."""
    told = _object(body)
    code = told.get("code")
    if code == "NoSuchKey":
        return Fault.MISSING if told.get("error") == "not_found" else Fault.PASSING
    if isinstance(code, str) and code in _BY_CODE:
        return _BY_CODE[code]
    meant = _status(status, told)
    if meant >= 500:
        return Fault.PASSING
    if code is None and not told.get("statusCode"):
        return _BY_STATUS.get(meant, Fault.REFUSED)
    # A code that we do not know: what its number says of the key or of haste still holds; a miss is no miss.
    known = _BY_STATUS.get(meant, Fault.REFUSED)
    return Fault.REFUSED if known in {Fault.GONE, Fault.TAKEN} else known


def _status(status: int, told: Mapping[str, object]) -> int:
    said = str(told.get("statusCode", ""))
    return int(said) if said.isdecimal() and len(said) == 3 else status


def _object(body: bytes) -> Mapping[str, object]:
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
