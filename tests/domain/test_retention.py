"""Retention never deletes what a session or a job may still start from."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.archive_names import ArchiveId, parse_archive_name
from overnight.domain.ids import uuid7
from overnight.domain.job import Job, Status
from overnight.domain.retention import (
    RetentionPolicy,
    StoredArchives,
    spent_checkpoints,
    superfluous,
)

NOW = 1_000_000.0
IDS = [uuid7(NOW, bytes([n] * 10)) for n in range(6)]


def name(job: int, attempt: int, checkpoint: int | None = None) -> str:
    tail = "" if checkpoint is None else f".c{checkpoint}"
    return f"claude-code/s/{IDS[job]}.{attempt}{tail}.zip"


def job(number: int, status: Status, archive: str | None = None) -> Job:
    return Job(
        job_id=IDS[number],
        session_id="s",
        status=status,
        created_at=NOW,
        available_at=NOW,
        archive=archive,
    )


def deleted(
    ages: Mapping[str, float],
    *jobs: Job,
    current: str | None = None,
    versions: int = 10,
    max_age: float | None = None,
) -> list[str]:
    archives = StoredArchives(
        stored_at={name: NOW - age for name, age in ages.items()},
        jobs={job.job_id: job for job in jobs},
        current=current,
    )
    policy = RetentionPolicy(versions=versions, max_age_seconds=max_age, grace_seconds=3600.0)
    return superfluous(archives, policy=policy, now=NOW)


def test_what_is_stored_late_waits_for_the_pointer_to_move_to_it() -> None:
    over = replace(job(0, Status.COMPLETED), attempt=2)
    ages = {name(0, 2): 60.0, name(0, 1): 60.0}
    assert deleted(ages, over) == [name(0, 1)]
    assert deleted({name(0, 2): 7200.0}, over) == [name(0, 2)]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (f"claude-code/s/{IDS[0]}.3.zip", ArchiveId(IDS[0], 3, None)),
        (f"{IDS[0]}.3.c12.zip", ArchiveId(IDS[0], 3, 12)),
        ("claude-code/s.zip", None),
        (f"claude-code/s/{IDS[0]}.zip", None),
        (f"claude-code/s/{IDS[0]}.3.x1.zip", None),
        (f"claude-code/s/{IDS[0]}.3.c.zip", None),
        (f"claude-code/s/{IDS[0]}.3.c1.zip.bak", None),
        (f"claude-code/s/{IDS[0]}.-3.zip", None),
        (f"claude-code/s/{IDS[0]}.\u0663.zip", None),
        ("claude-code/s/notes.1.zip", None),
    ],
)
def test_names_are_read(text: str, parsed: ArchiveId | None) -> None:
    assert parse_archive_name(text) == parsed


def test_an_end_takes_the_checkpoints_of_its_attempt_and_of_those_before_it() -> None:
    ended = replace(job(1, Status.COMPLETED), attempt=2)
    spent = [name(1, 1, 1), name(1, 2, 1), name(1, 2, 9)]
    kept = [name(1, 2), name(1, 3, 1), name(2, 1, 1), "notes.zip"]
    assert spent_checkpoints([*kept, *spent], ended) == spent


def test_the_newest_stay() -> None:
    names = [name(n, 1) for n in range(5)]
    jobs = [job(n, Status.COMPLETED, names[n]) for n in range(5)]
    ages = {name: 50.0 - n for n, name in enumerate(names)}
    assert deleted(ages, *jobs, current=names[4], versions=2) == names[:3]


def test_the_current_one_counts_and_stays_although_it_is_the_oldest() -> None:
    names = [name(n, 1) for n in range(3)]
    jobs = [job(n, Status.COMPLETED, names[n]) for n in range(3)]
    ages = {names[0]: 90.0, names[1]: 80.0, names[2]: 70.0}
    assert deleted(ages, *jobs, current=names[0], versions=2, max_age=60.0) == names[1:]
    assert deleted(ages, *jobs, current=names[0], versions=2) == [names[1]]


def test_the_age_limit_spares_the_current_one_only() -> None:
    names = [name(n, 1) for n in range(3)]
    jobs = [job(n, Status.COMPLETED, names[n]) for n in range(3)]
    ages = {names[0]: 300.0, names[1]: 100.0, names[2]: 300.0}
    assert deleted(ages, *jobs, current=names[2], max_age=200.0) == [names[0]]


def test_of_a_dead_attempt_nothing_stays() -> None:
    done = job(0, Status.COMPLETED, name(0, 2))
    ages = {name(0, 1): 5.0, name(0, 1, 1): 5.0, name(0, 2, 1): 5.0, name(0, 2): 1.0}
    assert deleted(ages, done, current=name(0, 2)) == sorted(ages.keys() - {name(0, 2)})


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PROCESSING])
def test_all_that_an_open_job_has_stored_stays(status: Status) -> None:
    ages = {name(0, 1): 1e6, name(0, 1, 1): 1e6, name(0, 2, 4): 1e6}
    assert deleted(ages, job(0, status), versions=1, max_age=1.0) == []


def test_a_dead_letter_keeps_what_it_goes_on_from() -> None:
    ages = {name(0, 1, 11): 1e6, name(0, 2, 9): 1e6, name(0, 2, 10): 1e6, name(0, 2): 1e6}
    unsaved = job(0, Status.FAILED)
    assert deleted(ages, unsaved) == sorted(ages.keys() - {name(0, 2, 10)})
    saved = job(0, Status.FAILED, name(0, 2))
    assert deleted(ages, saved, current=name(0, 2)) == sorted(ages.keys() - {name(0, 2)})


def test_what_nobody_knows_yet_has_an_hour() -> None:
    ages = {name(0, 1): 3599.0, name(1, 1, 1): 3599.0}
    assert deleted(ages, max_age=1.0) == []
    ages = {name(0, 1): 3601.0, name(1, 1, 1): 3601.0}
    assert deleted(ages, max_age=1.0) == sorted(ages)


def test_an_upload_is_a_version() -> None:
    upload = name(0, 0)
    done = job(1, Status.COMPLETED, name(1, 1))
    ages = {upload: 1e6, name(1, 1): 10.0}
    assert deleted(ages, done, current=name(1, 1), versions=2) == []
    assert deleted(ages, done, current=name(1, 1), versions=1) == [upload]


def test_files_with_names_of_others_stay() -> None:
    assert deleted({"claude-code/s/backup-of-monday.zip": 1e9}, versions=1, max_age=1.0) == []


@st.composite
def sessions(draw: st.DrawFn) -> tuple[dict[str, float], list[Job], str | None]:
    every = [name(j, a, c) for j in range(6) for a in range(3) for c in (None, 1, 2)]
    ages = draw(st.dictionaries(st.sampled_from(every), st.floats(min_value=0, max_value=1e5)))
    jobs = []
    for number in draw(st.sets(st.integers(0, 5))):
        archive = draw(st.sampled_from([None, name(number, 1), name(number, 2)]))
        jobs.append(job(number, draw(st.sampled_from(Status)), archive))
    whole = sorted(n for n in ages if ".c" not in n)
    current = draw(st.none() | st.sampled_from(whole)) if whole else None
    return ages, jobs, current


@given(sessions(), st.integers(1, 5), st.none() | st.floats(min_value=1, max_value=1e5))
def test_what_is_needed_stays_and_a_second_time_changes_nothing(
    session: tuple[dict[str, float], list[Job], str | None], versions: int, max_age: float | None
) -> None:
    ages, jobs, current = session
    gone = deleted(ages, *jobs, current=current, versions=versions, max_age=max_age)
    rest = {name: age for name, age in ages.items() if name not in gone}
    assert current is None or current in rest
    open_ids = {job.job_id for job in jobs if not job.status.final}
    assert not [n for n in gone if any(job_id in n for job_id in open_ids)]
    assert deleted(rest, *jobs, current=current, versions=versions, max_age=max_age) == []


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_exactly_so_many_versions_stay(count: int, versions: int, data: st.DataObject) -> None:
    ids = [uuid7(NOW, bytes([n] * 10)) for n in range(count)]
    names = [f"claude-code/s/{job_id}.1.zip" for job_id in ids]
    jobs = {
        job_id: Job(
            job_id=job_id,
            session_id="s",
            status=Status.COMPLETED,
            created_at=NOW,
            available_at=NOW,
            archive=archive,
        )
        for job_id, archive in zip(ids, names, strict=True)
    }
    archives = StoredArchives(
        stored_at={archive: NOW - 10.0 * n for n, archive in enumerate(names)},
        jobs=jobs,
        current=data.draw(st.sampled_from(names)),
    )
    gone = superfluous(archives, policy=RetentionPolicy(versions=versions), now=NOW)
    assert len(names) - len(gone) == min(count, versions)
