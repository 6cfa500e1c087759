"""The commands that stay: the service, a worker, the rehearsal API."""

# ruff: noqa: PLC0415 - the rehearsal needs no database, a worker no web server

import asyncio
import os
import signal
from collections.abc import Callable

import typer

from overnight.cli.exits import Exit
from overnight.cli.log import log_to_stderr
from overnight.cli.starting import explained
from overnight.settings import Settings, mistaken


async def serve(settings: Settings) -> Exit:
    from overnight.wiring import redactor_of, running_service

    _keep_to_ourselves()
    with explained(settings):
        redactor = redactor_of(settings)
        log_to_stderr(settings.log, redactor)
        async with running_service(settings, redactor=redactor) as service:
            _on_signals(service.stop)
            _say(*service.banner, *_ignored(), f"overnight is ready at {service.url}")
            await service.until_stopped()
            _say("overnight is stopping: running jobs are handed back and go on at the next start")
    return Exit.FAILED if service.failed else Exit.OK


async def worker(settings: Settings) -> Exit:
    from overnight.wiring import redactor_of, running_worker

    _keep_to_ourselves()
    with explained(settings):
        redactor = redactor_of(settings)
        log_to_stderr(settings.log, redactor)
        async with running_worker(settings, redactor=redactor) as one:
            _on_signals(one.stop)
            _say(*one.banner, *_ignored(), "overnight worker is ready")
            await one.until_stopped()
            _say("overnight worker is stopping: its jobs are handed back")
    return Exit.FAILED if one.failed else Exit.OK


async def rehearsal(host: str, port: int) -> Exit:
    from overnight.rehearsal import serve_rehearsal

    ended = asyncio.Event()
    async with serve_rehearsal(host, port) as url:
        _on_signals(ended.set)
        _say("a stand-in for Anthropic's API: no key, no cost, no model (docs/rehearsal.md)")
        _say(f"the rehearsal API is ready at {url}", f"use it:  ANTHROPIC_BASE_URL={url} overnight serve")
        await ended.wait()
    return Exit.OK


def _ignored() -> list[str]:
    meant = {name: f"; {like} is one" if like else "" for name, like in mistaken().items()}
    return [f"  IGNORED    {name} is no setting{hint}" for name, hint in meant.items()]


def _keep_to_ourselves() -> None:
    """Users of runs may pass the data directory: what lies in it must have modes of its own to keep them out."""
    os.umask(0o077)


def _on_signals(stop: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT asks for a clean end; the second, by default action, ends the process."""
    loop = asyncio.get_running_loop()
    both = (signal.SIGTERM, signal.SIGINT)

    def first() -> None:
        stop()
        for number in both:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in both:
        loop.add_signal_handler(number, first)


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(line)
