"""The webhook that a finished job owes: its body, when it is tried again, and when we give up."""

import json
from dataclasses import replace

from overnight.domain.errors import JobError
from overnight.domain.job import Delivery, DeliveryStatus, DeliveryTry, Job

DELAYS = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds before each try: ten tries over about 76 hours (facts: security 6)."""
JITTER = 0.2
MAX_RETRY_AFTER = 86400.0
KEPT_TRIES = 90
"""Of those before a redelivery: it may be asked for without end, and the log is written whole with every try."""
MAX_RESULT_BYTES = 16_000
"""In JSON: a webhook's body stays under 20 kB. A longer result is cut, and `status_url` has it whole."""
_LONGEST_ESCAPE = 6
"""Bytes that a character takes in JSON at most."""

GONE = 410


def owe(job: Job, *, delivery_id: str, now: float) -> Delivery:
    if job.callback_url is None:
        raise ValueError("the job asked for no webhook")
    return Delivery(
        delivery_id=delivery_id,
        job_id=job.job_id,
        url=job.callback_url,
        body=body_of(job),
        created_at=now,
        next_at=now,
        owner=job.owner,
        key_id=job.key_id,
    )


def body_of(job: Job) -> str:
    """JSON: what the receiver needs to act, without a second request unless the result is long."""
    result = job.result if job.result is None else _beginning(job.result)
    body = {
        "type": f"job.{job.status}",
        "job_id": job.job_id,
        "session_id": job.session_id,
        "status": job.status,
        "result": result,
        "result_truncated": result != job.result,
        "error": _error(job.error),
        "cost_usd": job.cost_usd,
        "num_turns": job.num_turns,
        "attempt": job.attempt,
        "isolation": job.isolation,
        "isolation_properties": job.isolation_properties,
        "seq": job.last_event,
        "created_at": job.created_at,
        "completed_at": job.completed_at,
        "status_url": f"/status/{job.job_id}",
        "metadata": job.metadata,
    }
    return _json(body)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _beginning(text: str) -> str:
    """As much of it as may be sent."""
    text = text[:MAX_RESULT_BYTES]
    while (over := len(_json(text).encode(errors="replace")) - MAX_RESULT_BYTES) > 0:
        text = text[: -max(over // _LONGEST_ESCAPE, 1)]
    return text


def _error(error: JobError | None) -> dict[str, object] | None:
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "retryable": error.retryable}


def reserve(delivery: Delivery, *, now: float, seconds: float) -> Delivery | None:
    """Take a due delivery for the length of one try, so that no other process sends it meanwhile."""
    if delivery.status is not DeliveryStatus.OWED or delivery.next_at > now:
        return None
    return replace(delivery, next_at=now + seconds)


def after_try(
    delivery: Delivery, tried: DeliveryTry, *, retry_after: float | None, now: float, chance: float
) -> Delivery:
    """What a try makes of a delivery: 2xx delivers it, 410 and a denied address end it, the rest waits.

    What was delivered stays so, whatever a try that took longer than its reservation says later. `chance` is a random
    number from [0, 1).
    """
    tries = (*delivery.tries, tried)
    is_accepted = tried.status is not None and 200 <= tried.status < 300
    if is_accepted or delivery.status is DeliveryStatus.DELIVERED:
        return replace(delivery, tries=tries, status=DeliveryStatus.DELIVERED)
    made = len(tries) - delivery.round
    denied_twice = sum(t.failure == "address_denied" for t in tries[delivery.round :]) > 1
    if tried.status == GONE or denied_twice or tried.failure == "url_refused" or made >= len(DELAYS):
        return replace(delivery, tries=tries, status=DeliveryStatus.FAILED)
    wait = DELAYS[made] * (1.0 + JITTER * (2.0 * chance - 1.0))
    return replace(delivery, tries=tries, next_at=now + max(wait, min(retry_after or 0.0, MAX_RETRY_AFTER)))


def redeliver(delivery: Delivery, *, now: float) -> Delivery:
    """Owe it again, with the whole schedule before it; of the earlier tries the newest stay in the log."""
    tries = delivery.tries[-KEPT_TRIES:]
    return replace(delivery, status=DeliveryStatus.OWED, next_at=now, tries=tries, round=len(tries))
