"""`overnight cloudflare deploy`: from an account to an edge that answers, in steps that can be taken again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
from pydantic import SecretStr

from overnight.adapters.cloudflare.messages import MAX_RETRIES
from overnight.deploying import kept
from overnight.deploying.account import PULL, Account, AccountProblem, Consumer
from overnight.deploying.names import DEAD_LETTERS, KEYS_SECRET, NAMESPACE, QUEUE, TOKEN_SECRET, WORKER
from overnight.deploying.seen import NoEdge, look_at_edge, look_at_ledger
from overnight.deploying.steps import Step
from overnight.deploying.wrangler import Wrangler, WranglerFailed
from overnight.domain.keys import ApiKey
from overnight.ports import Clock, StorageError
from overnight.settings import Settings, SettingsError
from overnight.wiring.archives import chosen_archives, try_archives

MAX_SECRET_BYTES = 5 * 1024
"""What Cloudflare takes as one secret of a Worker (by its page of limits, not measured)."""
ANSWER_SECONDS = 120.0
"""A name below workers.dev that is new takes a minute or so until everybody knows it (not measured)."""


class CannotDeploy(Exception):
    """The message says what is in the way, and what helps."""


TROUBLES = (
    AccountProblem,
    WranglerFailed,
    CannotDeploy,
    SettingsError,
    StorageError,
    kept.TwoTokens,
    OSError,
)


@dataclass
class Known:
    """What the steps have learnt of the account; None: not yet, or not there."""

    queues: dict[str, str] = field(default_factory=dict)
    consumer: Consumer | None = None
    namespace: str | None = None
    secrets: set[str] = field(default_factory=set)
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`stored_keys` are the API keys of the data directory, `make_key` makes one and shows it once.
    `replace_secrets`: give the edge new secrets even if it has others, which this data directory does not know."""

    settings: Settings
    account: Account
    account_id: str
    wrangler: Wrangler
    clock: Clock
    stored_keys: Callable[[], Awaitable[Sequence[ApiKey]]]
    make_key: Callable[[], Awaitable[str]]
    replace_secrets: bool = False
    known: Known = field(default_factory=Known)

    def steps(self) -> Sequence[Step]:
        data = self.settings.data
        return (
            _step("token", "", _nothing, self._token_lives),
            self._queue_step(DEAD_LETTERS),
            self._queue_step(QUEUE),
            _step("pull consumer", f"let workers pull from {QUEUE}", self._make_consumer, self._consumer),
            _step(f"KV namespace {NAMESPACE}", "make it", self._make_namespace, self._namespace),
            _step("archives", "write, read and delete a small one", self._try_archives),
            _step("ledger token", f"make one in {data / kept.TOKEN_FILE}", self._make_token, self._token),
            _step("API keys", "make a first one, and show it", self.make_key, self._keys),
            _step("bundle", "fetch what edge/ pins, if it is not there", self._bundle),
            _step(f"Worker {WORKER}", "upload it", self._upload),
            _step("secrets", f"set {KEYS_SECRET} and {TOKEN_SECRET} of the Worker", self._set_secrets),
            _step("a worker's settings", f"write {kept.worker_file(self.settings)}", self._write_settings),
            _step("answer", "wait until the edge answers, and its ledger opens", self._wait_for_the_edge),
        )

    async def of_a_worker(self) -> Settings:
        """The settings with what the steps have found and made."""
        token = kept.known_ledger_token(self.settings)
        return self.settings.model_copy(
            update={
                "edge_url": self.known.url,
                "cloudflare_queue_id": self.known.queues.get(QUEUE),
                "ledger_token": None if token is None else SecretStr(token),
                "keys": SecretStr(_as_secret(await self.stored_keys())),
            }
        )

    async def _token_lives(self) -> str:
        state = await self.account.token_state()
        if state != "active":
            raise CannotDeploy(f"CLOUDFLARE_API_TOKEN is {state or 'of no known state'}. Make a new one.")
        return "alive"

    def _queue_step(self, name: str) -> Step:
        return _step(f"queue {name}", "make it", partial(self._make_queue, name), partial(self._queue, name))

    async def _queue(self, name: str) -> str | None:
        found = await self.account.queue_named(name)
        if found is not None:
            self.known.queues[name] = found
        return found

    async def _make_queue(self, name: str) -> str:
        self.known.queues[name] = await self.account.make_queue(name)
        return self.known.queues[name]

    async def _consumer(self) -> str | None:
        queue = self.known.queues.get(QUEUE)
        if queue is None:
            return None
        consumers = await self.account.consumers(queue)
        self.known.consumer = next((found for found in consumers if found.kind == PULL), None)
        if self.known.consumer is None:
            return None
        return "there" if self.known.consumer.dead_letters == DEAD_LETTERS else None

    async def _make_consumer(self) -> str:
        queue, found = self.known.queues[QUEUE], self.known.consumer
        if found is None:
            await self.account.make_pull_consumer(queue, dead_letters=DEAD_LETTERS)
            return f"made: after {MAX_RETRIES} tries a message goes to {DEAD_LETTERS}"
        await self.account.set_dead_letters(queue, found, DEAD_LETTERS)
        return f"its dead letters go to {DEAD_LETTERS} now; its other settings are as they were"

    async def _namespace(self) -> str | None:
        self.known.namespace = (await self.account.namespaces()).get(NAMESPACE)
        return self.known.namespace

    async def _make_namespace(self) -> str:
        self.known.namespace = await self.account.make_namespace(NAMESPACE)
        return self.known.namespace

    async def _try_archives(self) -> str:
        tried = await try_archives(self.settings)
        if tried.refused:
            raise CannotDeploy(
                f"{tried.finding} Set SUPABASE_URL or OVERNIGHT_S3_BUCKET as workers have them."
            )
        if chosen_archives(self.settings) == "directory":
            return f"{tried.finding}: enough for workers on one machine; others need Supabase or S3"
        return tried.finding

    async def _token(self) -> str | None:
        """Looks at the Worker's secrets too: replaced by new ones, they would lock out everybody who has the old."""
        self.known.secrets = await self.account.secrets(WORKER) or set()
        known = kept.known_ledger_token(self.settings) is not None
        self._spare(TOKEN_SECRET, known=known)
        return "known here" if known else None

    async def _make_token(self) -> str:
        kept.make_ledger_token(self.settings)
        return f"made, and kept in {self.settings.data / kept.TOKEN_FILE}"

    async def _keys(self) -> str | None:
        stored = await self.stored_keys()
        self._spare(KEYS_SECRET, known=self._of_this_edge(stored))
        return f"{len(self._live(stored))} of {self.settings.data}" if stored else None

    def _of_this_edge(self, stored: Sequence[ApiKey]) -> bool:
        """A worker's settings, where they are given, name keys of the edge: another directory has none of them."""
        if self.settings.keys is None:
            return bool(stored)
        try:
            given = msgspec.json.decode(self.settings.keys.get_secret_value(), type=list[ApiKey])
        except msgspec.MsgspecError:
            raise CannotDeploy(
                "OVERNIGHT_KEYS is no list of keys: take it from worker.env, or unset it."
            ) from None
        return bool({key.key_id for key in given} & {key.key_id for key in stored})

    def _spare(self, secret: str, *, known: bool) -> None:
        if secret in self.known.secrets and not known and not self.replace_secrets:
            raise CannotDeploy(
                f"The Worker {WORKER} has a secret {secret} that {self.settings.data} does not know. Name the data "
                "directory that it was deployed from with --data, and unset OVERNIGHT_KEYS if it is of another edge; "
                "or give it new secrets with --replace-secrets, which shuts out every worker and API key that it "
                "knows now."
            )

    async def _bundle(self) -> str:
        await self.wrangler.prepare()
        return "ready"

    async def _upload(self) -> str:
        self.known.url = self.settings.edge_url or await self._url_of_the_account()
        if self.known.namespace is None:
            raise CannotDeploy("The KV namespace is not known: run it again.")
        await self.wrangler.deploy(self.known.namespace)
        return f"is at {self.known.url}"

    async def _url_of_the_account(self) -> str:
        subdomain = await self.account.subdomain()
        if subdomain is None:
            raise CannotDeploy(
                "The account has no name below workers.dev yet. Open `Workers & Pages` in the dashboard once and "
                "choose one; or add a route to edge/wrangler.jsonc, and set OVERNIGHT_EDGE_URL to its address."
            )
        return f"https://{WORKER}.{subdomain}.workers.dev"

    async def _set_secrets(self) -> str:
        keys, token = _as_secret(self._live(await self.stored_keys())), self._ledger_token()
        if len(keys.encode()) > MAX_SECRET_BYTES:
            raise CannotDeploy(
                f"The API keys are {len(keys.encode())} bytes, and a secret of a Worker has {MAX_SECRET_BYTES}. "
                "Revoke what nobody uses with `overnight keys revoke`: only live ones are sent."
            )
        await self.wrangler.set_secrets({KEYS_SECRET: keys, TOKEN_SECRET: token})
        return f"{KEYS_SECRET} and {TOKEN_SECRET} are set"

    def _live(self, stored: Sequence[ApiKey]) -> Sequence[ApiKey]:
        live = [key for key in stored if key.lives(self.clock.now())]
        if not live:
            raise CannotDeploy(
                f"Every API key of {self.settings.data} is revoked or has ended. Make one with `overnight keys create`."
            )
        return live

    async def _write_settings(self) -> str:
        """All keys, revoked ones too: a worker still signs the webhooks of their jobs."""
        path = kept.worker_file(self.settings)
        values = {
            "OVERNIGHT_EDGE_URL": self.known.url or "",
            TOKEN_SECRET: self._ledger_token(),
            KEYS_SECRET: _as_secret(await self.stored_keys()),
            "CLOUDFLARE_ACCOUNT_ID": self.account_id,
            "OVERNIGHT_CLOUDFLARE_QUEUE_ID": self.known.queues[QUEUE],
        }
        await asyncio.to_thread(kept.write_secret, path, kept.worker_text(values))
        return f"{path} (mode 600): {', '.join(values)}"

    def _ledger_token(self) -> str:
        token = kept.known_ledger_token(self.settings)
        if token is None:
            raise CannotDeploy(f"{self.settings.data / kept.TOKEN_FILE} is gone: run it again.")
        return token

    async def _wait_for_the_edge(self) -> str:
        """A new name is not known everywhere at once, nor is a new secret."""
        url, token, trouble = self.known.url or "", self._ledger_token(), "no answer"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while (trouble := await _trouble_of(url, token)) != "":  # noqa: ASYNC110 - it is far away
                    await asyncio.sleep(1.0)
        except TimeoutError:
            raise CannotDeploy(
                f"{trouble} Two minutes have passed. `npx wrangler tail {WORKER}` in edge/ shows what the Worker says."
            ) from None
        return f"{url} answers, and its ledger opens"


async def _trouble_of(url: str, token: str) -> str:
    """Why it is not to be used yet; empty if it is."""
    try:
        await look_at_edge(url)
        await look_at_ledger(url, token)
    except NoEdge as reason:
        return f"{reason}."
    except StorageError as reason:
        return str(reason)
    return ""


def _as_secret(keys: Sequence[ApiKey]) -> str:
    return msgspec.json.encode(keys).decode()


async def _to_do() -> str | None:
    return None


async def _nothing() -> str:
    return ""


def _step(
    name: str,
    plan: str,
    take: Callable[[], Awaitable[str]],
    look: Callable[[], Awaitable[str | None]] = _to_do,
) -> Step:
    """Without a look, it is taken each time: taking it again does no harm."""
    return Step(name=name, plan=plan, look=look, take=take)
