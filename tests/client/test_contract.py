"""The client's types against the API's: what the one shows, the other knows."""

import msgspec
import pytest

from overnight import client
from overnight.api import requests, views
from overnight.domain.job import ArchiveRef, Status


def names(kind: type) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("ours", "theirs", "only_ours", "only_theirs"),
    [
        (client.Job, views.JobView, set(), {"links"}),
        (client.Session, views.SessionView, set(), {"links"}),
        (client.Event, views.EventView, set(), set()),
        (client.Submitted, views.Accepted, {"replayed"}, set()),
        (client.Health, views.Health, set(), set()),
    ],
)
def test_the_client_knows_every_field(
    ours: type, theirs: type, only_ours: set[str], only_theirs: set[str]
) -> None:
    assert names(ours) - only_ours == names(theirs) - only_theirs


def test_the_client_knows_every_option_of_a_job() -> None:
    assert client.JobOptions.__optional_keys__ | {"prompt", "session_id"} == names(requests.ExecuteRequest)


def test_the_client_knows_an_archive_and_which_statuses_are_final() -> None:
    assert names(client.Archive) == set(ArchiveRef.__dataclass_fields__)
    assert {status for status in Status if status.final} == client.FINAL_STATUSES
    assert {f"job.{status}" for status in client.FINAL_STATUSES} == client.TERMINAL_EVENTS
