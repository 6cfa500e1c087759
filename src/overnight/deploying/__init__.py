"""Puts the edge into an account of Cloudflare's (`deploy`), looks at it there (`checks`), and tries it (`smoke`)."""
