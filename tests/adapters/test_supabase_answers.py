"""What answers of Supabase Storage mean, and what is sent to it: all that needs no server."""

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.adapters.supabase import Access, policies
from overnight.adapters.supabase.faults import Fault, classify, fault_of


def body(status: int, code: str, error: str) -> bytes:
    return json.dumps({"statusCode": str(status), "error": error, "message": "words", "code": code}).encode()


TABLE = [
    (400, body(404, "NoSuchKey", "not_found"), Fault.MISSING),
    (400, body(404, "NoSuchKey", "Not found"), Fault.PASSING),
    (404, body(404, "NoSuchKey", "Not found"), Fault.PASSING),
    (400, body(404, "NoSuchBucket", "Bucket not found"), Fault.NO_BUCKET),
    (400, body(404, "SomethingNew", "not_found"), Fault.REFUSED),
    (400, body(403, "AccessDenied", "Unauthorized"), Fault.DENIED),
    (400, body(400, "InvalidJWT", "InvalidJWT"), Fault.DENIED),
    (400, body(403, "SomethingNew", "Unauthorized"), Fault.DENIED),
    (401, b'{"message":"Invalid API key"}', Fault.DENIED),
    (400, body(409, "KeyAlreadyExists", "Duplicate"), Fault.TAKEN),
    (400, body(409, "ResourceAlreadyExists", "Duplicate"), Fault.TAKEN),
    (400, body(413, "EntityTooLarge", "Payload too large"), Fault.TOO_LARGE),
    (400, body(415, "InvalidMimeType", "invalid_mime_type"), Fault.REFUSED),
    (400, body(400, "InvalidKey", "InvalidKey"), Fault.REFUSED),
    (400, body(429, "too_many_connections", "too many"), Fault.PASSING),
    (503, body(503, "SlowDown", "slow down"), Fault.PASSING),
    (544, body(544, "DatabaseTimeout", "timeout"), Fault.PASSING),
    (400, body(544, "DatabaseTimeout", "timeout"), Fault.PASSING),
    (400, body(500, "InternalError", "Internal"), Fault.PASSING),
    (400, body(423, "SomethingNew", "locked"), Fault.PASSING),
    (500, b"", Fault.PASSING),
    (502, b"<html>bad gateway</html>", Fault.PASSING),
    (429, b"", Fault.PASSING),
    (423, b"locked", Fault.PASSING),
    (404, b"The file for this url was not found", Fault.GONE),
    (410, b"gone", Fault.GONE),
    (409, b"Upload-Offset conflict", Fault.TAKEN),
    (413, b"Maximum size exceeded", Fault.TOO_LARGE),
    (403, b"no", Fault.DENIED),
    (400, b"", Fault.REFUSED),
    (400, b"[]", Fault.REFUSED),
    (302, b"", Fault.REFUSED),
]


@pytest.mark.parametrize(("status", "said", "expected"), TABLE)
def test_an_answer_means(status: int, said: bytes, expected: Fault) -> None:
    assert classify(status, said) is expected


@given(st.integers(300, 599), st.one_of(st.binary(), st.text().map(str.encode)))
def test_noise_is_never_a_miss(status: int, said: bytes) -> None:
    assert classify(status, said) is not Fault.MISSING


@given(
    st.integers(300, 599),
    st.dictionaries(
        st.sampled_from(["statusCode", "code", "error", "message"]),
        st.one_of(st.none(), st.integers(), st.sampled_from(["404", "NoSuchKey", "not_found"]), st.text()),
    ),
)
def test_only_the_one_body_is_a_miss(status: int, told: dict[str, object]) -> None:
    surely = told.get("code") == "NoSuchKey" and told.get("error") == "not_found"
    assert (classify(status, json.dumps(told).encode()) is Fault.MISSING) == surely


def test_an_error_repeats_nothing_but_the_servers_code() -> None:
    said = json.dumps(
        {"statusCode": "403", "code": "AccessDenied", "message": "key sb_secret_canary"}
    ).encode()
    assert "canary" not in str(fault_of(400, said))


def test_a_key_of_each_kind_is_sent_as_it_must_be() -> None:
    url = "https://abcdefghijklmnopqrst.supabase.co"
    assert Access(url=url, key="sb_secret_x").headers == {"apikey": "sb_secret_x"}
    assert Access(url=url, key="a.b.c").headers == {"apikey": "a.b.c", "authorization": "Bearer a.b.c"}
    assert "sb_secret_x" not in repr(Access(url=url, key="sb_secret_x"))


@pytest.mark.parametrize(
    ("url", "resumable"),
    [
        ("https://abcdefghijklmnopqrst.supabase.co", "https://abcdefghijklmnopqrst.storage.supabase.co"),
        ("https://abcdefghijklmnopqrst.supabase.co/", "https://abcdefghijklmnopqrst.storage.supabase.co"),
        ("https://storage.example.org", "https://storage.example.org"),
        ("http://127.0.0.1:54321", "http://127.0.0.1:54321"),
    ],
)
def test_large_uploads_go_to_the_storage_host_of_a_hosted_project(url: str, resumable: str) -> None:
    assert Access(url=url, key="k").resumable == f"{resumable}/storage/v1/upload/resumable"


def test_the_folder_of_the_settings_stands_for_the_first_component() -> None:
    access = Access(url="http://localhost", key="k", prefix="team-a")
    assert access.key_of("claude-code/s/j.1.zip") == "team-a/s/j.1.zip"
    assert access.name_of("team-a/s/j.1.zip") == "claude-code/s/j.1.zip"
    folders = {"": "team-a", "cl": "team-a", "claude-code/": "team-a", "claude-code/s/j": "team-a/s"}
    assert {prefix: access.folder_of(prefix) for prefix in folders} == folders
    assert access.folder_of("other") is None
    assert access.folder_of("claude-codex/s") is None
    with pytest.raises(ValueError, match="not a name"):
        access.key_of("elsewhere/s.zip")


def test_the_sql_names_the_bucket_and_the_folder_of_the_settings() -> None:
    sql = policies(Access(url="http://localhost", key="k", bucket="zips", prefix="it's"))
    assert sql.count("create policy") == 4
    assert sql.count("bucket_id = 'zips' and (storage.foldername(name))[1] = 'it''s'") == 5
    assert "('zips'," not in sql.replace("values ('zips', 'zips', false", "")


def test_the_page_has_the_sql_as_doctor_prints_it() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "archives.md").read_text()
    bucket, *rights = policies(Access(url="http://localhost", key="k")).split("create policy")
    assert textwrap.indent(bucket.rstrip(), "   ") in page
    assert "create policy".join(["", *rights]) in page
