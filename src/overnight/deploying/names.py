"""What the parts of the edge are called in an account. `edge/wrangler.jsonc` has the same names (a test looks)."""

from overnight.adapters.cloudflare.mirroring import status_key

WORKER = "overnight-edge"
QUEUE = "claude-code-queue"
DEAD_LETTERS = "claude-code-dlq"
NAMESPACE = "overnight-status"
"""The title of the KV namespace that the Worker knows as STATUS."""
STATUS_PREFIX = status_key("")
"""Of its keys."""
KEYS_SECRET, TOKEN_SECRET = "OVERNIGHT_KEYS", "OVERNIGHT_LEDGER_TOKEN"
