"""Which part of an archive a request asks for (RFC 9110, section 14)."""

import re
from collections.abc import Mapping

from overnight.api.problems import Code, Problem

_ONE_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII | re.IGNORECASE)


def asked_range(headers: Mapping[str, str], etag: str, size: int) -> range | None:
    """The offsets of the bytes that are wanted of `size`; None: all of them.

    So also for several ranges, for what is none, and if `If-Range` names another state than `etag`: a client takes
    the whole then. Raises Problem (416) if there is no such byte.
    """
    asked = _ONE_RANGE.fullmatch(headers.get("range", ""))
    if asked is None or headers.get("if-range", etag) != etag:
        return None
    first, last = asked.groups()
    if first:
        if last and int(last) < int(first):
            return None
        found = range(int(first), min(int(last) + 1, size) if last else size)
    elif last:
        found = range(max(size - int(last), 0), size)
    else:
        return None
    if not found:
        raise Problem(Code.RANGE_NOT_SATISFIABLE, headers={"Content-Range": f"bytes */{size}"})
    return found
