"""Every seam of overnight. Adapters implement these; everything else is written against them.

Contracts that hold for all of them: methods do not block the event loop; a cancelled call leaves no half
write; an adapter passes the contract suite of its port in `tests/contracts/`.
"""

from overnight.ports.agent import Agent, Owner, RunOrder, Slot, Stop, Workspace
from overnight.ports.archives import (
    ArchiveConflict,
    ArchiveDenied,
    ArchiveMissing,
    ArchiveStore,
    ArchiveTooLarge,
    Growth,
    ListedArchive,
    StoredArchive,
    whole,
)
from overnight.ports.owners import Books, Owners
from overnight.ports.queue import Bell, Queue, Subscription, Wakeups
from overnight.ports.store import (
    Created,
    Idempotency,
    JobHistory,
    JobIndex,
    JobStore,
    KeyStore,
    Page,
    SchemaTooNew,
    StorageBusy,
    StorageError,
    StorageFailed,
    StorageFull,
)
from overnight.ports.system import Clock, Entropy, Roster
from overnight.ports.webhooks import Receipt, Webhooks

__all__ = [
    "Agent",
    "ArchiveConflict",
    "ArchiveDenied",
    "ArchiveMissing",
    "ArchiveStore",
    "ArchiveTooLarge",
    "Bell",
    "Books",
    "Clock",
    "Created",
    "Entropy",
    "Growth",
    "Idempotency",
    "JobHistory",
    "JobIndex",
    "JobStore",
    "KeyStore",
    "ListedArchive",
    "Owner",
    "Owners",
    "Page",
    "Queue",
    "Receipt",
    "Roster",
    "RunOrder",
    "SchemaTooNew",
    "Slot",
    "Stop",
    "StorageBusy",
    "StorageError",
    "StorageFailed",
    "StorageFull",
    "StoredArchive",
    "Subscription",
    "Wakeups",
    "Webhooks",
    "Workspace",
    "whole",
]
