"""What the events of a run say about its files."""

from collections.abc import Mapping, Sequence

from overnight.archive import Scan
from overnight.flows.event_log import EventLog
from overnight.flows.preparing import Prepared
from overnight.flows.saving import Saved


def told_ready(prepared: Prepared) -> Mapping[str, object]:
    return {
        "source": prepared.source,
        "continued": prepared.continued,
        "archive": prepared.archive,
        "fetched_bytes": prepared.fetched_bytes,
    } | ({"aside": list(prepared.aside)} if prepared.aside else {})


def told_saved(saved: Saved) -> Sequence[tuple[str, Mapping[str, object]]]:
    """The events, by their types, of what was stored and what was not."""
    told = [("workspace.saved", _what_was_saved(saved))]
    if not saved.conversation:
        told.append(("conversation.left_out", {"archive": saved.archive.name}))
    return told


def _what_was_saved(saved: Saved) -> Mapping[str, object]:
    packed = saved.packed
    return {
        "archive": saved.archive.name,
        "size": saved.archive.size,
        "entries": packed.entries,
        "reused_entries": packed.reused_entries,
        "fresh_bytes": packed.fresh_bytes,
        "left_out": [{"path": left.path, "reason": left.reason} for left in packed.left_out],
        "left_out_total": packed.left_out_total,
        "changed": packed.changed,
    }


def tell_secrets(scan: Scan, events: EventLog) -> None:
    for found in scan.found:
        told = {"path": found.path, "kind": found.kind, "count": found.count}
        events.emit("archive.secret_found", told)
    unlisted = scan.found_total - len(scan.found)
    if unlisted or not scan.whole:
        events.emit("archive.scan_cut", {"unlisted": unlisted, "whole": scan.whole})
