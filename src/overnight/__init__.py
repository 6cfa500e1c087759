"""Runs Claude Code in the background: a durable queue, a sandbox, sessions kept as zips."""
