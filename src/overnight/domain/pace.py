"""A token bucket: so many requests a minute, of which a whole minute's worth may come at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    tokens: float
    at: float


def take(bucket: Bucket | None, *, per_minute: int, now: float) -> tuple[Bucket, float]:
    """The bucket after one more request, and the seconds until there is room for it; 0 if there is."""
    tokens = float(per_minute)
    if bucket is not None:
        refilled = max(now - bucket.at, 0.0) * per_minute / 60.0
        tokens = min(bucket.tokens + refilled, float(per_minute))
    if tokens < 1.0:
        return Bucket(tokens, now), (1.0 - tokens) * 60.0 / per_minute
    return Bucket(tokens - 1.0, now), 0.0
