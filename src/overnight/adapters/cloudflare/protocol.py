"""The version of the interface between edge and worker: each names its own with every call and answer.

Both are deployed from one version of overnight, but not at one moment. Whoever finds that they differ says which of
the two is behind, because that is the one to update.
"""

PROTOCOL = "2"
PROTOCOL_HEADER = "overnight-protocol"
TEND_HEADER = "overnight-tend-seconds"
"""Told to a worker that greets: who writes nothing of a job for so long has lost it."""


def refusal(worker: str | None) -> str | None:
    """What the edge tells a worker of that version; None if they agree. It does not repeat what the worker said."""
    if worker == PROTOCOL:
        return None
    known = f"The edge speaks version {PROTOCOL} of the protocol between edge and worker"
    if _number(worker) < _number(PROTOCOL):
        return f"{known}, the worker an older one. {UPDATE_WORKER} Nothing was done."
    return f"{known}, the worker a newer one. {UPDATE_EDGE} Nothing was done."


def why_not(edge: str | None) -> str | None:
    """What a worker tells of an edge of that version; None if they agree."""
    if edge == PROTOCOL:
        return None
    if _number(edge) < _number(PROTOCOL):
        return f"The edge speaks an older protocol than this worker ({PROTOCOL}). {UPDATE_EDGE}"
    return f"The edge speaks a newer protocol than this worker ({PROTOCOL}). {UPDATE_WORKER}"


UPDATE_WORKER = "Update overnight where the worker runs to the edge's version, and start the worker again."
UPDATE_EDGE = "Deploy the edge again, from the worker's version of overnight."


def _number(version: str | None) -> int:
    """What names no version is older than all that do."""
    plain = version is not None and version.isascii() and version.isdecimal() and len(version) < 9
    return int(version) if plain and version is not None else -1
