"""The cost of a job, whatever its attempts went on from: no dollar is counted twice, and none is lost."""

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from claude_agent_sdk import ResultMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.agent.counted import MARKER, STEP, Counted, begin_counting, counted_before
from overnight.agent.outcome import Record, outcome_of
from overnight.agent.prices import Metered
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Change, JobRequest
from overnight.domain.outcome import Outcome, failed
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import lapse, requeue, start, submit

NOW = 1_000.0


def cost_state(total: float) -> bytes:
    return json.dumps({"type": "cost-state", "totalCostUSD": total}, separators=(",", ":")).encode() + b"\n"


def result(total: float | None) -> ResultMessage:
    return ResultMessage(
        subtype="success",
        duration_ms=1,
        duration_api_ms=1,
        is_error=False,
        num_turns=1,
        session_id="s",
        total_cost_usd=total,
        usage={},
    )


@dataclass
class Conversation:
    """A job of one conversation, and Claude Code as it was measured to count.

    `unpaid` is what the current tree has in its transcript, and the job was not charged for yet.
    """

    root: Path
    change: Change
    spent: float = 0.0
    lost: float = 0.0
    unpaid: float = 0.0
    stored: list[tuple[bytes, float]] = field(default_factory=list)

    @property
    def transcript(self) -> Path:
        return self.root / "s.jsonl"

    def attempt(self, cost: float, how: str) -> Outcome:
        job = start(worker="w", now=NOW, lease_seconds=1.0, isolation="none")
        self.change = job(self.change.job, self.change.session) or self.change
        began = begin_counting(
            self.root,
            [self.transcript],
            job_id="j",
            attempt=self.change.job.attempt,
            charged=self.change.job.charged_attempt,
        )
        total = counted_before(self.transcript) + cost
        record = Record(counted=began, metered=Metered(cost_usd=cost, least_usd=cost))
        if how in {"told", "not written down"}:
            record.note(result(total))
        if how in {"told", "not told"}:
            with self.transcript.open("ab") as file:
                file.write(cost_state(total) + b'{"type":"user"}\n')
        self.spent += cost
        return outcome_of(record, stopped=how == "killed", wants_structure=False)


def accepted() -> Change:
    request = JobRequest(prompt="p")
    return submit(request, job_id="j", session_id="s", continues=False, now=NOW)(None)


steps = st.lists(
    st.tuples(
        st.sampled_from(["here", "checkpoint", "anew"]),
        st.integers(0, 1_000),
        st.sampled_from(["told", "not written down", "killed"]),
        st.sampled_from(["charged", "charged", "lost"]),
        st.booleans(),
    ),
    max_size=12,
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_any_attempts_checkpoints_and_cuts_are_charged_once(
    story: list[tuple[str, int, str, str, bool]],
) -> None:
    with TemporaryDirectory() as directory:
        it = Conversation(Path(directory), accepted())
        it.transcript.touch()
        for place, cents, how, end, stores in story:
            go_on_from(it, place)
            outcome = it.attempt(cents / 100, how)
            end_attempt(it, outcome, how, end)
            if stores and end == "charged":
                it.stored.append((it.transcript.read_bytes(), 0.0))
        assert it.change.job.cost_usd == pytest.approx(it.spent - it.lost - it.unpaid)
        assert it.change.session.cost_usd == it.change.job.cost_usd


def go_on_from(it: Conversation, place: str) -> None:
    """A tree that was restored has no note beside it, and what the lost one had in it stays lost."""
    if place == "here":
        return
    old = it.stored[-1][0] if place == "checkpoint" and it.stored else b""
    shutil.rmtree(it.root)
    it.root.mkdir()
    it.transcript.write_bytes(old)
    it.lost += it.unpaid
    it.unpaid = 0.0


def end_attempt(it: Conversation, outcome: Outcome, how: str, end: str) -> None:
    job, session = it.change.job, it.change.session
    cost = it.spent - it.lost - it.unpaid - job.cost_usd
    if end == "charged":
        outcome = replace(failed(ErrorCode.OVERLOADED, ""), cost_usd=outcome.cost_usd)
        decide = requeue(outcome, attempt=job.attempt, now=NOW, at=NOW)
        it.unpaid = 0.0
    else:
        decide = lapse(
            attempt=job.attempt,
            now=NOW,
            policy=RetryPolicy(max_losses=99, delays=(0.0,)),
            chance=0.0,
            delivery_id="m",
            worker_is_dead=True,
        )
        if how == "told":
            it.unpaid += cost
        else:
            it.lost += cost
    change = decide(job, session)
    assert change is not None
    it.change = replace(change, job=replace(change.job, available_at=NOW))


@given(
    st.lists(st.integers(0, 10**9), max_size=4),
    st.sampled_from([0, 1, STEP - len(MARKER) - 20, STEP - 5, STEP, 2 * STEP + 3]),
)
@settings(max_examples=60, deadline=None)
def test_the_last_total_of_a_transcript_is_found_however_much_follows(totals: list[int], after: int) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "s.jsonl")
        lines = b"".join(b'{"type":"user"}\n' + cost_state(total / 1e6) for total in totals)
        path.write_bytes(lines + b"x" * after)
        assert counted_before(path) == (totals[-1] / 1e6 if totals else 0.0)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"cost-state","totalCostUSD":',
        b'{"type":"cost-state","totalCostUSD":-1}',
        b'{"type":"cost-state","totalCostUSD":Infinity}',
        b'{"type":"cost-state","totalCostUSD":"7"}',
        b'{"type":"cost-state"}',
        b'["type":"cost-state"]',
        json.dumps({"text": cost_state(7.0).decode()}).encode(),
    ],
)
def test_a_line_that_tells_no_total_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(cost_state(0.5) + line)
    assert counted_before(path) == 0.5


def test_what_is_no_file_tells_nothing_and_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_bytes(cost_state(0.5))
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "directory.jsonl").mkdir()
    for name in ("link", "pipe", "directory", "nothing"):
        assert counted_before(tmp_path / f"{name}.jsonl") == 0.0


def test_a_note_that_was_cut_off_is_none(tmp_path: Path) -> None:
    (tmp_path / "counted.json").write_text('{"attempt": 1, "bef')
    assert begin_counting(tmp_path, [], job_id="j", attempt=2, charged=0) == Counted()


@pytest.mark.e2e
async def test_the_real_claude_code_counts_on_from_the_transcript_that_it_resumes(
    stage: Any, tmp_path: Path
) -> None:
    """From an older checkpoint, after a total that nobody was charged for, and without that line at all."""
    usage = "rehearsal: usage 1000 1000\nrehearsal: answer ok"
    async with stage() as it:
        first = await it.run(f"one\n{usage}")
        checkpoint = it.transcript.read_bytes()
        second = await it.run(f"two\n{usage}")
        it.transcript.write_bytes(checkpoint)
        third = await it.run(f"three\n{usage}")
        await it.start(f"its worker dies\n{usage}", attempt=4)
        fifth = await it.run(f"five\n{usage}", attempt=5, charged=3)
        it.transcript.write_bytes(checkpoint.replace(MARKER, b'"type":"other"'))
        sixth = await it.run(f"six\n{usage}", attempt=6, charged=5)
    assert first.cost_usd > 0
    assert [run.cost_usd for run in (second, third, sixth)] == [pytest.approx(first.cost_usd)] * 3
    assert fifth.cost_usd == pytest.approx(2 * first.cost_usd)
