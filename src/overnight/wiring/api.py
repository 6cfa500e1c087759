"""The parts of the API."""

from importlib.metadata import version

from overnight.adapters.system import FreeSpace
from overnight.agent.run import ClaudeAgent
from overnight.api.parts import ApiParts, Limits, Readiness
from overnight.flows.kept_here import KeptHere
from overnight.wiring.access import allowed_hosts
from overnight.wiring.base import Base
from overnight.wiring.running import Running
from overnight.wiring.upkeep import uploads_of


def api_parts(base: Base, agent: ClaudeAgent, running: Running) -> ApiParts:
    settings = base.settings

    def ready() -> Readiness:
        draining = running.leaving.is_set()
        return Readiness(
            ok=not draining and agent.refusal is None,
            draining=draining,
            isolation=agent.isolation,
            isolation_properties=agent.isolation_properties,
            reasons=(agent.refusal or agent.chosen.report,),
        )

    return ApiParts(
        store=base.store,
        index=base.index,
        queue=base.queue,
        archives=base.archives,
        wakeups=base.wakeups,
        keys=base.keys,
        kept=KeptHere(settings.data),
        clock=base.clock,
        entropy=base.entropy,
        callback_policy=settings.callback_policy,
        limits=Limits(
            max_body_bytes=settings.max_body_bytes,
            max_archive_bytes=settings.max_archive_bytes,
            max_timeout_seconds=settings.max_timeout_seconds,
            max_queued=settings.max_queued,
            min_free_bytes=settings.min_free_disk_bytes,
            uploads=uploads_of(settings),
        ),
        scratch=base.scratch,
        allowed_hosts=allowed_hosts(settings),
        ready=ready,
        free_bytes=FreeSpace(settings.data),
        version=version("overnight"),
        redactor=base.redactor,
    )
