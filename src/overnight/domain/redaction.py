"""Blanks secrets out of what the service tells: the exact values that it loaded, and known shapes of secrets.

The exact values are looked for as they are, URL-encoded, JSON-escaped, in hexadecimal and in base64 at each of
its three alignments. A text that was cut in the middle of a value may hold only the first part of it, so twenty
characters of a value are enough to blank them and all that follows of it.
"""

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

from overnight.domain.outcome import Outcome

LEAST = 12
"""Characters of a value that is taken for a secret. Shorter ones are stand-ins, such as `rehearsal`."""
HEAD = 20
MANY = 300
"""Heads from which on they are not looked for one after the other."""

_CHARS = r"[A-Za-z0-9._~+/=-]"
_QUERY = r"[A-Za-z0-9._~%+/=-]"
_JWT = r"[A-Za-z0-9_-]"


@dataclass(frozen=True, slots=True)
class Shape:
    """`hints`: a text without any of them cannot match, which is known far sooner than a pattern finds out.

    What the group `kept` matches stays.
    """

    kind: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]


def _shape(kind: str, pattern: str, *hints: str) -> Shape:
    return Shape(kind, hints, re.compile(pattern))


SHAPES = (
    _shape("anthropic_key", r"sk-ant-[A-Za-z0-9_-]{8,}", "sk-ant-"),
    _shape("overnight_key", r"ovn_[A-Za-z0-9_]{32,}", "ovn_"),
    _shape("webhook_secret", r"whsec_[A-Za-z0-9+/=_-]{16,}", "whsec_"),
    _shape("supabase_key", r"sbp_[A-Za-z0-9_]{16,}|sb_secret_[A-Za-z0-9_-]{16,}", "sbp_", "sb_secret_"),
    _shape("github_token", r"gh[oprsu]_[A-Za-z0-9]{30,}", "gho_", "ghp_", "ghr_", "ghs_", "ghu_"),
    _shape("github_token", r"github_pat_[A-Za-z0-9_]{22,}", "github_pat_"),
    _shape("aws_key", r"A(?:KI|SI)A[A-Z0-9]{16}(?![A-Za-z0-9])", "AKIA", "ASIA"),
    _shape(
        "jwt",
        # Once for each run of its characters it is seen whether the rest follows. Looked for at every `eyJ`, a text
        # of nothing but these would take time by the square of its length, and nothing else could go on meanwhile.
        rf"(?<!{_JWT})(?={_JWT}*\.eyJ{_JWT}{{8,}}\.{_JWT}{{8}})(?P<kept>{_JWT}*?)"
        rf"eyJ{_JWT}{{8,}}\.eyJ{_JWT}{{8,}}\.{_JWT}{{8,}}",
        ".eyJ",
    ),
    _shape(
        "private_key",
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
        "PRIVATE KEY-----",
    ),
    _shape(
        "authorization",
        r"(?P<kept>(?:uthorization|UTHORIZATION|x-api-key)[\"']?[:=] ?[\"']?)"
        rf"(?:(?:[Bb]earer|[Bb]asic|[Tt]oken) {{1,4}}{_CHARS}{{8,}}|{_CHARS}{{16,}})",
        "uthorization",
        "UTHORIZATION",
        "x-api-key",
    ),
    _shape(
        "url_userinfo",
        r"(?P<kept>://)[^\s/@:\"'<>\[\]\\]{0,256}:[^\s/@\"'<>\[\]\\]{1,256}(?=@)",
        "://",
    ),
    _shape(
        "url_secret",
        r"(?P<kept>(?:[?&;]|\\u0026)(?i:(?:access_|auth_|id_|refresh_|session_|x-amz-security-)?token|api[_-]?key"
        r"|access[_-]?key|client[_-]?secret|password|sig|(?:x-amz-)?signature)=)"
        rf"(?={_QUERY}*[0-9])(?={_QUERY}*[A-Za-z]){_QUERY}{{16,}}",
        "=",
    ),
)
"""A secret in a query is told from an ordinary value by its length and by being letters and digits together."""


class Redactor:
    """`secrets` are the exact values by kind; a kind is what `[redacted:kind]` says in their place."""

    def __init__(self, secrets: Mapping[str, str] | None = None, *, shapes: bool = True) -> None:
        self._loaded = tuple((secrets or {}).items())
        self._learned: tuple[tuple[str, str], ...] = ()
        self._known = _known(self._loaded)
        self._shapes = SHAPES if shapes else ()

    def __repr__(self) -> str:
        return f"Redactor({len(self._known.values)} forms)"

    def learn(self, kind: str, secrets: Iterable[str]) -> None:
        """Know these besides the loaded ones from now on, in the place of what was learned before. Other threads
        may blank meanwhile."""
        learned = tuple((kind, secret) for secret in secrets)
        if learned != self._learned:
            self._learned, self._known = learned, _known((*self._loaded, *learned))

    def text(self, text: str) -> str:
        """The text itself if there is nothing to blank."""
        return self._swept(text, Counter())

    def count(self, text: str) -> Counter[str]:
        """How many secrets of each kind are in a text."""
        found: Counter[str] = Counter()
        self._swept(text, found)
        return found

    def data(self, value: Any) -> Any:
        """JSON data with all of its strings blanked, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.data(key): self.data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        return value

    def outcome(self, outcome: Outcome) -> Outcome:
        """What a run came to, with all that it says blanked."""
        return replace(
            outcome,
            result=self.data(outcome.result),
            structured_output=self.data(outcome.structured_output),
            message=self.data(outcome.message),
        )

    def _swept(self, text: str, found: Counter[str]) -> str:
        text = self._without_values(text, found)
        for shape in self._shapes:
            if any(hint in text for hint in shape.hints):
                text, times = shape.pattern.subn(partial(_blanked, shape.kind), text)
                found.update({shape.kind: times} if times else {})
        return text

    def _without_values(self, text: str, found: Counter[str]) -> str:
        known, pieces, at = self._known, [], 0
        while (start := known.find(text, at)) is not None:
            end, kind = max(
                (start + _common(text, start, value), kind)
                for value, kind in known.values.items()
                if text.startswith(value[:HEAD], start)
            )
            pieces += [text[at:start], _marker(kind)]
            found[kind] += 1
            at = end
        return "".join((*pieces, text[at:])) if pieces else text


def _marker(kind: str) -> str:
    return f"[redacted:{kind}]"


def _blanked(kind: str, match: re.Match[str]) -> str:
    return match.groupdict().get("kept", "") + _marker(kind)


class _Known:
    """Exact values in all their forms, with their kind. Each begins with a head of up to HEAD characters."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self._heads = {value[:HEAD] for value in values}
        self._starts = {head[:LEAST] for head in self._heads}
        few = sorted(self._heads, key=len, reverse=True) if len(self._heads) <= MANY else ()
        self._any_head = re.compile("|".join(map(re.escape, few)))

    def find(self, text: str, at: int) -> int | None:
        """Where the next value begins, from `at` on."""
        if len(self._heads) > MANY:
            return self._find_by_position(text, at)
        if at == 0 and not any(head in text for head in self._heads):  # far faster than the pattern
            return None
        found = self._any_head.search(text, at) if self._heads else None
        return found.start() if found else None

    def _find_by_position(self, text: str, at: int) -> int | None:
        """As long for a thousand keys as for ten, where a look for each head would take a hundred times that."""
        starts = self._starts
        for position in range(at, len(text) - LEAST + 1):
            if text[position : position + LEAST] in starts and self._is_at(text, position):
                return position
        return None

    def _is_at(self, text: str, position: int) -> bool:
        return any(text.startswith(head, position) for head in self._heads)


def _known(secrets: Iterable[tuple[str, str]]) -> _Known:
    return _Known(
        {
            form: kind
            for kind, secret in secrets
            if len(secret) >= LEAST
            for form in _forms(secret)
            if len(form) >= LEAST
        }
    )


def _forms(secret: str) -> Iterator[str]:
    """The ways in which a value may be written."""
    raw = secret.encode("utf-8", "surrogateescape")  # as os.environ decodes a value that is not UTF-8
    yield secret
    for escaped in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield escaped
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), escaped)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield raw.hex()
    for lead in range(3):
        yield from _base64(raw, lead)
    yield secret.removeprefix("whsec_")


def _base64(raw: bytes, lead: int) -> Iterator[str]:
    """What of the value is sure to show in the base64 of a text in which `lead` bytes stand before a group of it."""
    padded = b"\0" * lead + raw
    whole = padded[: len(padded) - len(padded) % 3]
    encoded = b64encode(whole).decode()[-(-lead * 8 // 6) if lead else 0 :]
    yield encoded
    yield encoded.replace("+", "-").replace("/", "_")


def _common(text: str, start: int, value: str) -> int:
    """How many characters of the value stand at `start`."""
    length = min(len(value), HEAD)
    while length < len(value) and text.startswith(value[length], start + length):
        length += 1
    return length
