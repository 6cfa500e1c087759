"""Which models a list of names allows: what a key names is not always what Claude Code then asks for.

`sonnet` becomes the newest model of that family, a name without a date may get one, and `[1m]` (a long context)
never leaves Claude Code.
"""

import re
from collections.abc import Iterable

FAMILIES = frozenset({"fable", "haiku", "mythos", "opus", "sonnet"})
_DATED = re.compile(r"-\d{8}")


def is_allowed(model: str, allowed: Iterable[str]) -> bool:
    """Whether one of the names stands for the model that the API is asked for."""
    return any(_stands_for(name.removesuffix("[1m]"), model) for name in allowed)


def _stands_for(name: str, model: str) -> bool:
    if name in FAMILIES:
        return model.startswith("claude-") and name in model.split("-")
    return model == name or (model.startswith(name) and bool(_DATED.fullmatch(model[len(name) :])))
