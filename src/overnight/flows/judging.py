"""What the outcome of an agent means for its job."""

from dataclasses import replace

from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import Ending, Outcome
from overnight.flows.lease import StopReason


def failed_as_too_large(outcome: Outcome) -> Outcome:
    """Also of a job that had failed, whose own reason is the better one."""
    if outcome.ending is not Ending.DONE:
        return outcome
    return replace(outcome, ending=Ending.FAILED, code=ErrorCode.STORAGE, message=_LARGER_THAN_STORE)


def judged(outcome: Outcome, reason: StopReason | None, timeout_seconds: float) -> Outcome:
    """What an interruption means, now that it is known who asked for it."""
    if outcome.ending is not Ending.INTERRUPTED:
        return outcome
    if reason is StopReason.CANCEL:
        return replace(outcome, ending=Ending.CANCELLED)
    if reason is StopReason.TIMEOUT:
        message = (
            f"The job was stopped after its timeout of {timeout_seconds:g} seconds. Its files and conversation up "
            "to then are kept: send another prompt to the session, or retry the job with more time."
        )
        return replace(outcome, ending=Ending.FAILED, code=ErrorCode.TIMEOUT, message=message)
    return outcome


_LARGER_THAN_STORE = (
    "The run ended well, but its files are more than the archive store takes in one archive. They are kept on the "
    "worker's disk (the event `workspace.not_saved` says where); the session is as it was before. Raise the store's "
    "limit or exclude more from archives, then send the job again."
)
