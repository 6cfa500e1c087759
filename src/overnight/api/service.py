"""Calls about the service itself."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from overnight.api.parts import ApiParts
from overnight.api.views import Health, Ready, answer
from overnight.domain.job import Status

OPEN = tuple(status for status in Status if not status.final)


async def healthz(parts: ApiParts, _: Request) -> Response:
    """Whether the process answers. It says nothing about the storage or the workers."""
    return answer(Health(parts.version))


async def readyz(parts: ApiParts, _: Request) -> Response:
    """Whether jobs sent now are run here; `reasons` say why not."""
    now = parts.ready()
    view = Ready(
        ready=now.ok,
        draining=now.draining,
        isolation=now.isolation,
        isolation_properties=now.isolation_properties,
        reasons=now.reasons,
    )
    return answer(view, 200 if now.ok else 503)


async def metrics(parts: ApiParts, _: Request) -> Response:
    """Open jobs by status, for Prometheus."""
    counts = await parts.index.counts()
    lines = [
        "# HELP overnight_build_info The version that runs; always 1.",
        "# TYPE overnight_build_info gauge",
        f'overnight_build_info{{version="{parts.version}"}} 1',
        "# HELP overnight_ready Whether jobs sent now are run here.",
        "# TYPE overnight_ready gauge",
        f"overnight_ready {int(parts.ready().ok)}",
        "# HELP overnight_open_jobs Jobs that have no final status yet.",
        "# TYPE overnight_open_jobs gauge",
        *(f'overnight_open_jobs{{status="{status}"}} {counts.get(status, 0)}' for status in OPEN),
    ]
    return Response(
        "\n".join(lines) + "\n",
        200,
        {"Cache-Control": "no-store"},
        "text/plain; version=0.0.4; charset=utf-8",
    )


async def front_page(_: ApiParts, __: Request) -> Response:
    return RedirectResponse("/docs", 307)
