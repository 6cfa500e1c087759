"""The rules of overnight: pure functions and values, standard library only.

The Cloudflare edge carries this package as it is, so nothing here may import anything else.
"""
