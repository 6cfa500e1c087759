"""The Python client of overnight's HTTP API.

    from overnight.client import Client

    with Client("http://127.0.0.1:8080") as client:
        submitted = client.submit("Write a haiku into haiku.txt")
        job = client.wait(submitted.job_id)
        print(job.status, job.result)

`AsyncClient` offers the same calls to asyncio programs.
"""

from overnight.client.aio import AsyncClient
from overnight.client.blocking import Client
from overnight.client.connection import Patience
from overnight.client.errors import ApiProblem, DamagedDownload, Fault, OvernightError, ServiceUnreachable
from overnight.client.model import (
    FINAL_STATUSES,
    TERMINAL_EVENTS,
    Archive,
    Event,
    Health,
    Job,
    JobError,
    JobOptions,
    Session,
    Submitted,
    Usage,
)

__all__ = [
    "FINAL_STATUSES",
    "TERMINAL_EVENTS",
    "ApiProblem",
    "Archive",
    "AsyncClient",
    "Client",
    "DamagedDownload",
    "Event",
    "Fault",
    "Health",
    "Job",
    "JobError",
    "JobOptions",
    "OvernightError",
    "Patience",
    "ServiceUnreachable",
    "Session",
    "Submitted",
    "Usage",
]
