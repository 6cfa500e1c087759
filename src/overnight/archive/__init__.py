"""A session as a plain zip: pack it, look into it, restore it. Blocking calls: run them in a thread."""

from overnight.archive.durable import fsync_directory, whole_file
from overnight.archive.incremental import prune, unchanged
from overnight.archive.listing import (
    EntryContent,
    Place,
    inspect,
    inspect_end,
    locate,
    read_entry,
    read_place,
)
from overnight.archive.model import (
    DEFAULT_EXCLUDE,
    IGNORE_FILE,
    OWN,
    OWN_CAPS,
    RESERVED,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    UPLOAD,
    ArchiveRefused,
    Base,
    Caps,
    Check,
    Entry,
    EntryMissing,
    Kind,
    LeftOut,
    Listing,
    Omission,
    Packed,
    Part,
    Profile,
    Range,
    Refusal,
    Unpacked,
)
from overnight.archive.output import Assembly, Delta
from overnight.archive.owners import give_tree
from overnight.archive.pack import pack
from overnight.archive.record import Record
from overnight.archive.scan import Scan, SecretFound, scan
from overnight.archive.trees import remove_tree
from overnight.archive.unpack import unpack
from overnight.archive.walk import is_there, printable

__all__ = [
    "DEFAULT_EXCLUDE",
    "IGNORE_FILE",
    "OWN",
    "OWN_CAPS",
    "RESERVED",
    "SESSION_ENTRY",
    "TRANSCRIPT_PREFIX",
    "UPLOAD",
    "ArchiveRefused",
    "Assembly",
    "Base",
    "Caps",
    "Check",
    "Delta",
    "Entry",
    "EntryContent",
    "EntryMissing",
    "Kind",
    "LeftOut",
    "Listing",
    "Omission",
    "Packed",
    "Part",
    "Place",
    "Profile",
    "Range",
    "Record",
    "Refusal",
    "Scan",
    "SecretFound",
    "Unpacked",
    "fsync_directory",
    "give_tree",
    "inspect",
    "inspect_end",
    "is_there",
    "locate",
    "pack",
    "printable",
    "prune",
    "read_entry",
    "read_place",
    "remove_tree",
    "scan",
    "unchanged",
    "unpack",
    "whole_file",
]
