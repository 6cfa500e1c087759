"""A scripted stand-in for Anthropic's Messages API, for real runs without a key; see docs/rehearsal.md."""

from overnight.rehearsal.app import rehearsal_app
from overnight.rehearsal.serve import serve_rehearsal

__all__ = ["rehearsal_app", "serve_rehearsal"]
