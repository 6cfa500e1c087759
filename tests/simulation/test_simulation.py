"""The rules in a fleet: whatever messages, workers and callers do, what the design promises holds.

The second half breaks one rule at a time and sees that the witness says so, by the name of the promise.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from bench.simulation.plan import Faults, Fleet, Rules
from bench.simulation.witness import Violation, Witness
from bench.simulation.world import Progress, Report, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.domain import retention, transitions
from overnight.domain.archive_names import parse_archive_name
from overnight.domain.errors import Refused
from overnight.domain.job import ArchiveRef, Change, Delivery, Job, JobRequest, Session, Status
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.retention import StoredArchives
from overnight.domain.retry import RetryPolicy
from overnight.domain.standing import Check
from overnight.domain.transitions import Decide

SMALL = Fleet(workers=8, jobs=250, run_seconds=20.0)
HARSH = Faults(
    lost_bell=0.1,
    duplicate=0.2,
    late=0.1,
    lost_request=0.03,
    lost_answer=0.03,
    death=0.01,
    freeze=0.02,
    double_alarm=0.1,
    lost_note=0.05,
    transient=0.15,
    permanent=0.05,
    rate_limited=0.05,
    handed_back=0.05,
    cancel=0.15,
    resend=0.4,
)
CRUEL = replace(HARSH, freeze=0.05, cancel=0.5, handed_back=0.3)
"""So that the windows in which a broken rule matters, some of them a tenth of a second, are met every time."""
NONE = Faults(**dict.fromkeys(Faults.__dataclass_fields__, 0.0))

few, some = st.floats(0.0, 0.05), st.floats(0.0, 0.3)
mixes = st.builds(
    Faults,
    lost_bell=some,
    duplicate=some,
    late=some,
    lost_request=few,
    lost_answer=few,
    death=few,
    freeze=few,
    double_alarm=some,
    lost_note=some,
    transient=some,
    permanent=some,
    rate_limited=some,
    handed_back=some,
    cancel=some,
    resend=some,
)


def test_progress_is_told_until_all_has_ended() -> None:
    told: list[Progress] = []
    report = simulate(SMALL, seed=1, progress=told.append)
    assert [each.seconds for each in told] == [600.0 * number for number in range(1, len(told) + 1)]
    assert len(told) == report.seconds // 600 > 0
    ended = [each.ended for each in told]
    assert ended == sorted(ended)
    assert ended[-1] + told[-1].open <= ends(report)


@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_workers_and_three_thousand_jobs(seed: int) -> None:
    report = simulate(Fleet(), seed=seed)
    assert ends(report) == 3_000 + report.tally["resends"]
    happened = {
        "bells lost",
        "duplicates",
        "deaths",
        "freezes",
        "stale attempts",
        "jobs taken back",
        "resends",
        "notes lost",
        "jobs held for their owner",
        "archives deleted",
    }
    assert {what for what in happened if report.tally[what] == 0} == set()


@pytest.mark.parametrize("seed", range(3))
def test_a_world_in_which_much_goes_wrong(seed: int) -> None:
    report = simulate(replace(SMALL, max_deliveries=3), seed=seed, faults=HARSH)
    assert ends(report) == SMALL.jobs + report.tally["resends"]


def test_a_world_in_which_leases_end_by_the_clock_of_their_worker() -> None:
    report = simulate(replace(SMALL, by_lease=True), seed=7, faults=HARSH)
    assert ends(report) == SMALL.jobs + report.tally["resends"]
    assert report.tally["jobs taken back"] > 0


@settings(max_examples=15, deadline=None)
@given(faults=mixes, seed=st.integers(0, 2**32), follow_up=st.floats(0.0, 0.95))
def test_any_mix_of_faults(faults: Faults, seed: int, follow_up: float) -> None:
    fleet = Fleet(workers=4, jobs=60, run_seconds=20.0, follow_up=follow_up)
    report = simulate(fleet, seed=seed, faults=faults)
    assert ends(report) == fleet.jobs + report.tally["resends"]


def test_without_faults_each_job_is_run_once() -> None:
    report = simulate(SMALL, seed=3, faults=NONE)
    assert report.statuses == {Status.COMPLETED: SMALL.jobs}
    assert report.tally["attempts"] == SMALL.jobs
    assert report.tally["stale attempts"] == report.tally["jobs taken back"] == 0


def test_messages_that_become_dead_letters_lose_no_job() -> None:
    """A job that is too early is pulled in vain again and again; with few deliveries its message dies early."""
    faults = replace(NONE, rate_limited=0.3, duplicate=0.5, lost_answer=0.02)
    report = simulate(replace(SMALL, max_deliveries=1), seed=4, faults=faults)
    assert report.tally["dead letters"] > 0
    assert ends(report) == SMALL.jobs + report.tally["resends"]


def test_jobs_that_may_not_run_yet_cost_no_more_the_more_there_are() -> None:
    """Four times as many jobs wait, for four times as long: each minute sees no more tries."""
    fleet = Fleet(workers=8, owners=1, run_seconds=20.0, follow_up=0.0, load=3.0, headroom=0.04)
    few, many = (simulate(replace(fleet, jobs=jobs), seed=6, faults=NONE) for jobs in (20, 80))
    assert tries_again(few) > 2.0
    assert tries_again(many) < 1.5 * tries_again(few)


def tries_again(report: Report) -> float:
    """A minute, of jobs that were held before."""
    return report.tally["jobs held for their owner"] * 60.0 / report.seconds


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(SMALL, seed=5) == simulate(SMALL, seed=5)


def ends(report: Report) -> int:
    return sum(report.statuses.values())


# Broken rules. Each takes the place of a real one and goes wrong in one way.


def forgetful_line(**given: Any) -> Decide:
    """A start that does not look whether its job is the first of the line."""

    def decide(job: Job, session: Session) -> Change | None:
        change = transitions.start(**given)(job, replace(session, line=(job.job_id,)))
        return None if change is None else replace(change, session=session)

    return decide


def unfenced(rule: Callable[..., Decide]) -> Callable[..., Decide]:
    """A rule that takes whichever attempt is the current one for the writer's own."""

    def made(*args: Any, attempt: int, **given: Any) -> Decide:
        def decide(job: Job, session: Session) -> Change | None:
            return rule(*args, attempt=job.attempt, **given)(job, session)

        return decide

    return made


def early_pointer(archive: ArchiveRef, *, attempt: int, now: float) -> Decide:
    """A checkpoint that moves the session's pointer too."""

    def decide(job: Job, session: Session) -> Change | None:
        change = transitions.checkpoint(archive, attempt=attempt, now=now)(job, session)
        return None if change is None else replace(change, session=replace(session, archive=archive))

    return decide


def lost_pointer(*args: Any, **given: Any) -> Decide:
    """A finish that gives the status and forgets the pointer."""

    def decide(job: Job, session: Session) -> Change | None:
        change = transitions.finish(*args, **given)(job, session)
        moved = None if change is None else replace(change.session, archive=session.archive)
        return None if change is None or moved is None else replace(change, session=moved)

    return decide


def jump_the_line(*, now: float) -> Decide:
    """A resend that puts its job first."""

    def decide(job: Job, session: Session) -> Change | None:
        change = transitions.resend(now=now)(job, session)
        if change is None:
            return None
        line = (change.session.line[-1], *change.session.line[:-1])
        return replace(change, session=replace(change.session, line=line))

    return decide


def changed_mind(**given: Any) -> Decide:
    """A cancel that also ends what has ended."""

    def decide(job: Job, session: Session) -> Change | None:
        if job.status is Status.COMPLETED:
            return Change(job=replace(job, status=Status.CANCELLED), session=session)
        return transitions.cancel(**given)(job, session)

    return decide


def careless_lapse(**given: Any) -> Decide:
    """A lapse that does not look whether the job is to be cancelled."""

    def decide(job: Job, session: Session) -> Change | None:
        asked = job.cancel_requested_at
        change = transitions.lapse(**given)(replace(job, cancel_requested_at=None), session)
        return None if change is None else replace(change, job=replace(change.job, cancel_requested_at=asked))

    return decide


def without(rule: Callable[..., Decide], **changes: Any) -> Callable[..., Decide]:
    """A rule whose change lacks something."""

    def made(*args: Any, **given: Any) -> Decide:
        def decide(job: Job, session: Session) -> Change | None:
            change = rule(*args, **given)(job, session)
            return change if change is None else replace(change, **changes)

        return decide

    return made


def on_job(rule: Callable[..., Decide], **changes: Any) -> Callable[..., Decide]:
    """A rule that writes something wrong into the job."""

    def made(*args: Any, **given: Any) -> Decide:
        def decide(job: Job, session: Session) -> Change | None:
            change = rule(*args, **given)(job, session)
            return change if change is None else replace(change, job=replace(change.job, **changes))

        return decide

    return made


def room_for_all(**_given: Any) -> Check:
    """A check that lets every job of an owner run."""
    return lambda _job, _standing: None


def nothing_kept(archives: StoredArchives, **given: Any) -> list[str]:
    """A retention that does not know what its session points at."""
    return [*retention.superfluous(replace(archives, current=None), **given), archives.current or ""]


def whole_job(names: Iterable[str], job: Job) -> list[str]:
    """An end that takes what its job has just stored for a checkpoint."""
    return [name for name in names if (parsed := parse_archive_name(name)) and parsed.job_id == job.job_id]


def foreign_name(archives: StoredArchives, **given: Any) -> list[str]:
    """A retention that names what nobody stored."""
    return [*retention.superfluous(archives, **given), "somebody-elses.zip"]


def wrong_checkpoint(name: str) -> Callable[..., Decide]:
    """A checkpoint that points at another archive than it was given."""

    def made(archive: ArchiveRef, *, attempt: int, now: float) -> Decide:
        def decide(job: Job, session: Session) -> Change | None:
            other = replace(archive, name=name.format(job_id=job.job_id, attempt=attempt))
            return transitions.checkpoint(other, attempt=attempt, now=now)(job, session)

        return decide

    return made


def patient_lapse(*, policy: RetryPolicy, **given: Any) -> Decide:
    """A lapse that gives a job as many workers as it can lose."""
    return transitions.lapse(policy=replace(policy, max_losses=1000), **given)


def happy_lapse(*, attempt: int, now: float, delivery_id: str, **_given: Any) -> Decide:
    """A lapse that takes the silence of a worker for its success."""
    done = Outcome(ending=Ending.DONE, result="done")
    return transitions.finish(done, attempt=attempt, now=now, archive=None, delivery_id=delivery_id)


def never(*_args: Any, **_given: Any) -> Decide:
    def decide(_job: Job, _session: Session) -> Change | None:
        raise Refused("never")

    return decide


EARLY = Delivery(
    delivery_id="msg-early", job_id="j", url="https://example.com/", body="{}", created_at=0.0, next_at=0.0
)
BROKEN = {
    "two runs of a session": ({"one run", "order"}, Rules(start=forgetful_line)),
    "a stale finish": ({"fence"}, Rules(finish=unfenced(transitions.finish))),
    "a stale requeue": ({"fence"}, Rules(requeue=unfenced(transitions.requeue))),
    "a stale renewal": ({"fence"}, Rules(renew=unfenced(transitions.renew))),
    "an attempt number that stands still": ({"fence"}, Rules(start=on_job(transitions.start, attempt=1))),
    "a pointer before the end": ({"pointer"}, Rules(checkpoint=early_pointer)),
    "an end without the pointer": ({"pointer"}, Rules(finish=lost_pointer)),
    "a resend that jumps the line": ({"order"}, Rules(resend=jump_the_line)),
    "a final status that changes": ({"one end"}, Rules(cancel=changed_mind)),
    "an end without its webhook": ({"debt"}, Rules(finish=without(transitions.finish, deliveries=()))),
    "a change without its events": ({"events", "debt"}, Rules(finish=without(transitions.finish, events=()))),
    "an event that is not written": (
        {"events"},
        Rules(checkpoint=without(transitions.checkpoint, events=())),
    ),
    "a webhook before the end": ({"debt"}, Rules(renew=without(transitions.renew, deliveries=(EARLY,)))),
    "an end that nobody ran": ({"one end"}, Rules(lapse=happy_lapse)),
    "a cancelled job that goes back": ({"cancel"}, Rules(lapse=careless_lapse)),
    "a lease that stays": ({"lease"}, Rules(requeue=on_job(transitions.requeue, status=Status.PROCESSING))),
    "retries beyond their number": ({"limits"}, Rules(requeue=on_job(transitions.requeue, failures=99))),
    "losses that are not counted": ({"limits"}, Rules(lapse=on_job(transitions.lapse, losses=0))),
    "losses that never end a job": ({"limits"}, Rules(lapse=patient_lapse)),
    "failures that are not counted": ({"limits"}, Rules(requeue=on_job(transitions.requeue, failures=0))),
    "a lost checkpoint": ({"checkpoint"}, Rules(requeue=on_job(transitions.requeue, checkpoint=None))),
    "a checkpoint of another attempt": (
        {"checkpoint"},
        Rules(checkpoint=wrong_checkpoint("{job_id}.0.c1.zip")),
    ),
    "a checkpoint that was not stored": (
        {"archive"},
        Rules(checkpoint=wrong_checkpoint("{job_id}.{attempt}.c99.zip")),
    ),
    "a retention that deletes what is not ours": ({"archive"}, Rules(superfluous=foreign_name)),
    "more jobs of an owner than may run": ({"owner"}, Rules(room_to_run=room_for_all)),
    "a retention that deletes what is needed": ({"archive"}, Rules(superfluous=nothing_kept)),
    "an end that deletes what it has stored": ({"archive"}, Rules(spent_checkpoints=whole_job)),
    "a lost worker's job that nobody takes": ({"end"}, Rules(lapse=never)),
}


def three_worlds(rules: Rules) -> None:
    """What is broken nearly always shows in the first."""
    for seed in range(3):
        simulate(replace(SMALL, load=0.3, headroom=3.0), seed=seed, faults=CRUEL, rules=rules)


def test_a_job_that_is_open_when_the_world_is_quiet_is_noticed() -> None:
    witness = Witness(RetryPolicy())
    request = JobRequest(prompt="p")
    admit = transitions.submit(request, job_id="j", session_id="s", continues=False, now=0.0)
    witness.accepted(admit(None))
    with pytest.raises(Violation) as noticed:
        witness.settle()
    assert noticed.value.promise == "end"


@pytest.mark.parametrize(("promises", "rules"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_noticed(promises: set[str], rules: Rules) -> None:
    with pytest.raises(Violation) as noticed:
        three_worlds(rules)
    assert noticed.value.promise in promises
