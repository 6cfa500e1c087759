"""A file as the listing of a session shows it."""

import os

import msgspec

from overnight.api.views import file_view
from overnight.archive import Entry, Kind


def test_a_name_that_is_not_utf8_can_be_shown() -> None:
    entry = Entry(os.fsdecode(b"bad\xff"), Kind.FILE, 1, 0o644, 0)
    assert msgspec.json.decode(msgspec.json.encode(file_view(entry)))["name"] == "bad\\xff"
