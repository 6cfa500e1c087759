"""Puts the parts together: the only package that names concrete classes."""

from overnight.wiring.keys import OpenedKeys, opened_keys
from overnight.wiring.secrets import redactor_of, webhook_secret
from overnight.wiring.service import Running, running_service, running_worker

__all__ = [
    "OpenedKeys",
    "Running",
    "opened_keys",
    "redactor_of",
    "running_service",
    "running_worker",
    "webhook_secret",
]
