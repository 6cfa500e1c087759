"""Commands about jobs that are there already."""

import typer

from overnight.cli.connect import connected
from overnight.cli.exits import BY_STATUS, Exit
from overnight.cli.follow import follow
from overnight.cli.show import JsonLines, Story, as_json, following, job_page, job_table, terminal
from overnight.settings import Settings


async def status(settings: Settings, job_id: str, *, json: bool) -> Exit:
    async with connected(settings) as link:
        job = await link.client.status(job_id)
    typer.echo(as_json(job) if json else "\n".join(job_page(job)))
    return Exit.OK


async def listing(
    settings: Settings, *, statuses: list[str], session_id: str | None, limit: int, json: bool
) -> Exit:
    async with connected(settings) as link:
        asked = link.client.jobs(status=statuses or None, session_id=session_id, limit=limit)
        jobs = [job async for job in asked]
    if json:
        typer.echo(as_json(jobs))
    else:
        typer.echo("\n".join(job_table(jobs)) if jobs else "no jobs")
    return Exit.OK


async def logs(settings: Settings, job_id: str, *, live: bool, json: bool) -> Exit:
    """Following ends with the exit status of the job, so that a script can wait for it."""
    async with connected(settings, works=live) as link:
        if not live:
            view = JsonLines() if json else Story(terminal())
            async for event in link.client.events(job_id, follow=False):
                view.event(event)
            if isinstance(view, Story):
                view.end(result=None)
            return Exit.OK
        if json:
            job = await follow(link.client, job_id, JsonLines())
        else:
            with following(terminal(), tells_end=True) as story:
                job = await follow(link.client, job_id, story)
                story.end(result=None)
    return Exit.INTERRUPTED if job is None else BY_STATUS.get(job.status, Exit.FAILED)


async def cancel(settings: Settings, job_id: str) -> Exit:
    async with connected(settings) as link:
        job = await link.client.cancel(job_id)
    if job.status == "cancelled":
        typer.echo(f"job {job.job_id} is cancelled")
    elif job.final:
        typer.echo(f"job {job.job_id} had ended already: {job.status}")
    else:
        typer.echo(f"job {job.job_id} is being stopped; what it did so far will be kept")
    return Exit.OK


async def retry(settings: Settings, job_id: str) -> Exit:
    async with connected(settings) as link:
        job = await link.client.retry(job_id)
    service = f"overnight serve{link.there}"
    then = f"; it runs as soon as a service runs: {service}" if link.service.temporary else ""
    typer.echo(f"job {job.job_id} is {job.status} again{then}")
    typer.echo(f"follow it:  overnight logs -f {job.job_id}{link.there}")
    return Exit.OK
