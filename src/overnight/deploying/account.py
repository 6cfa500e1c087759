"""An account at Cloudflare, as far as the edge needs one, by the official client."""

from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import cloudflare
from cloudflare.types.queues import Queue
from cloudflare.types.queues.consumer import Consumer as Told

from overnight.adapters.cloudflare.client import cloudflare_client, said
from overnight.adapters.cloudflare.messages import MAX_RETRIES

PULL: Literal["http_pull"] = "http_pull"
MALFORMED = 6003
"""Of a token that cannot be one, with HTTP 400 (github.com/kissgyorgy/cloudflare-dyndns, issue 40)."""
CONSUMER_EXISTS = 11004
"""github.com/cloudflare/workers-sdk, issue 5347."""

T = TypeVar("T")


class AccountProblem(Exception):
    """A call of Cloudflare's API failed: what was asked for, how it was answered, and what helps.

    `status` is that of HTTP; None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """`dead_letters` is the name of a queue, empty if there is none. `settings` are as Cloudflare names them."""

    id: str
    kind: str
    dead_letters: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundQueue:
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key of a KV namespace. `expires_at` in seconds since 1970; None: it stays for good."""

    name: str
    expires_at: float | None


class Account:
    """Every method raises AccountProblem. Those that make something are for what is not there.

    The permissions are named as in Cloudflare's list "API token permissions", and asked for as its API reference has
    them: for queues it takes `Workers Scripts Write` as well as `Queues Write`.
    """

    def __init__(self, client: cloudflare.AsyncCloudflare, account_id: str) -> None:
        self._client = client
        self._id = account_id

    async def token_state(self) -> str:
        """`active`, `disabled` or `expired`. Tokens of users and of accounts are asked about in two places."""
        try:
            told = await _answer(self._client.user.tokens.verify(), "look at the token", "")
        except AccountProblem as of_user:
            try:
                asked = self._client.accounts.tokens.verify(account_id=self._id)
                own = await _answer(asked, "look at the token", "")
            except AccountProblem:
                raise of_user from None
            return own.status if own is not None else ""
        return told.status if told is not None else ""

    async def queue_named(self, name: str) -> str | None:
        """Its id; None if there is none. Asked for by name: an account may have more queues than one page holds."""
        listing = self._client.queues.list(account_id=self._id, extra_query={"name": name})
        page = await _answer(listing, "list the queues", "Queues Read")
        found = (_queue(queue) for queue in page.result or [])
        return next((queue.id for queue in found if queue.name == name), None)

    async def queue(self, queue_id: str) -> FoundQueue:
        """`status` of the problem is 404 if there is none."""
        asked = self._client.queues.get(queue_id, account_id=self._id)
        return _queue(await _answer(asked, "read the queue", "Queues Read"))

    async def make_queue(self, name: str) -> str:
        """Returns its id."""
        asked = self._client.queues.create(account_id=self._id, queue_name=name)
        return _queue(await _answer(asked, f"make the queue {name}", "Queues Write")).id

    async def consumers(self, queue_id: str) -> list[Consumer]:
        listing = self._client.queues.consumers.list(queue_id, account_id=self._id)
        page = await _answer(listing, "list the consumers of the queue", "Queues Read")
        return [_consumer(told) for told in page.result or []]

    async def make_pull_consumer(self, queue_id: str, *, dead_letters: str) -> None:
        asked = self._client.queues.consumers.create(
            queue_id,
            account_id=self._id,
            type=PULL,
            dead_letter_queue=dead_letters,
            settings={"max_retries": MAX_RETRIES},
        )
        await _answer(asked, "let workers pull from the queue", "Queues Write")

    async def set_dead_letters(self, queue_id: str, consumer: Consumer, dead_letters: str) -> None:
        """An update replaces the whole consumer, so its settings are sent back as they are."""
        settings: Any = consumer.settings
        asked = self._client.queues.consumers.update(
            consumer.id,
            account_id=self._id,
            queue_id=queue_id,
            type=PULL,
            dead_letter_queue=dead_letters,
            settings=settings,
        )
        await _answer(asked, "name the queue of dead letters", "Queues Write")

    async def may_write(self, queue_id: str) -> bool:
        """Whether the token may take messages: acknowledges one that does not exist, which changes nothing."""
        acks = [{"lease_id": "overnight-doctor"}]
        asked = self._client.queues.messages.ack(queue_id, account_id=self._id, acks=acks, retries=[])  # type: ignore[arg-type]  # its TypedDicts are private
        try:
            await _answer(asked, "acknowledge a message", "Queues Write")
        except AccountProblem as problem:
            if problem.status is None or problem.status == 429 or problem.status >= 500:
                raise
            return problem.status not in {401, 403}  # it may, and was told that there is no such message
        return True

    async def namespaces(self) -> Mapping[str, str]:
        """The ids of all KV namespaces by their titles."""
        try:
            return {
                found.title: found.id async for found in self._client.kv.namespaces.list(account_id=self._id)
            }
        except cloudflare.CloudflareError as error:
            raise _problem(error, "list the KV namespaces", "Workers KV Storage Read") from None

    async def make_namespace(self, title: str) -> str:
        """Returns its id."""
        asked = self._client.kv.namespaces.create(account_id=self._id, title=title)
        made = await _answer(asked, f"make the KV namespace {title}", "Workers KV Storage Write")
        return _there(made, "the KV namespace").id

    async def entries(self, namespace_id: str, *, prefix: str = "") -> list[Entry]:
        """The first page of its keys, as many as Cloudflare gives at once."""
        listing = self._client.kv.namespaces.keys.list(namespace_id, account_id=self._id, prefix=prefix)
        page = await _answer(listing, "list the keys of the KV namespace", "Workers KV Storage Read")
        return [Entry(name=key.name, expires_at=key.expiration) for key in page.result or []]

    async def secrets(self, worker: str) -> set[str] | None:
        """The names of the Worker's secrets; None if there is no such Worker yet (10007, as wrangler reads it)."""
        listing = self._client.workers.scripts.secrets.list(worker, account_id=self._id)
        try:
            page = await _answer(listing, "list the secrets of the Worker", "Workers Scripts Read")
        except AccountProblem as problem:
            if problem.status == 404:
                return None
            raise
        return {secret.name for secret in page.result or []}

    async def subdomain(self) -> str | None:
        """What the account's Workers are called below workers.dev; None if it has not chosen a name yet."""
        asked = self._client.workers.subdomains.get(account_id=self._id)
        try:
            told = await _answer(asked, "read the account's name below workers.dev", "Workers Scripts Read")
        except AccountProblem as problem:
            if problem.status == 404:
                return None
            raise
        return told.subdomain if told is not None else None


@asynccontextmanager
async def opened_account(url: str, token: str, account_id: str) -> AsyncIterator[Account]:
    """`url` is that of Cloudflare's API."""
    async with cloudflare_client(url, token) as client:
        yield Account(client, account_id)


async def _answer(call: Awaitable[T], what: str, right: str) -> T:
    try:
        return await call
    except cloudflare.CloudflareError as error:
        raise _problem(error, what, right) from None


def _problem(error: cloudflare.CloudflareError, what: str, right: str) -> AccountProblem:
    if not isinstance(error, cloudflare.APIStatusError):
        kind = type(error).__name__
        return AccountProblem(
            f"Could not {what}: Cloudflare's API did not answer ({kind}). Check the network."
        )
    told = f"Could not {what} ({said(error)})."
    remedy = _remedy(error.status_code, {each.code for each in error.errors}, right)
    return AccountProblem(" ".join(part for part in (told, remedy) if part), error.status_code)


def _remedy(status: int, codes: Collection[int | None], right: str) -> str:
    if MALFORMED in codes:
        return "CLOUDFLARE_API_TOKEN is no API token: it needs one, not a global API key, and without quotes."
    if CONSUMER_EXISTS in codes:
        return "A queue has one consumer: look in the dashboard what this one is for, and remove it there."
    match status:
        case 401:
            return "Set CLOUDFLARE_API_TOKEN to a token that is alive."
        case 403 if right:
            return f"Give the token the permission {right}, for this account."
        case 404:
            return "Look at CLOUDFLARE_ACCOUNT_ID."
        case 429:
            return "Cloudflare counts 1200 calls in five minutes: wait that long."
        case _:
            return ""


def _queue(queue: Queue | None) -> FoundQueue:
    found = _there(queue, "the queue")
    return FoundQueue(id=_there(found.queue_id, "its id"), name=found.queue_name or "")


def _consumer(told: Told) -> Consumer:
    return Consumer(
        id=told.consumer_id or "",
        kind=told.type or "",
        dead_letters=told.dead_letter_queue or "",
        settings=told.settings.model_dump(exclude_none=True) if told.settings is not None else {},
    )


def _there(value: T | None, what: str) -> T:
    if value is None:
        raise AccountProblem(f"Cloudflare's answer does not say {what}.")
    return value
