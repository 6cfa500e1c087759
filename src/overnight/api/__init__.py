"""The HTTP API."""

from overnight.api.app import ApiParts, Limits, Readiness, close_streams, create_app

__all__ = ["ApiParts", "Limits", "Readiness", "close_streams", "create_app"]
