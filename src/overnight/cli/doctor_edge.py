"""`overnight doctor` for a worker of an edge: the token and its rights, the queue, the edge, the mirror, the clock."""

from importlib.metadata import version

from overnight.cli.checks import Check, Verdict, judged, note
from overnight.deploying.account import PULL, Account, AccountProblem, Consumer
from overnight.deploying.names import DEAD_LETTERS, KEYS_SECRET, NAMESPACE, STATUS_PREFIX, TOKEN_SECRET
from overnight.deploying.opening import opened_account_of
from overnight.deploying.seen import NoEdge, Seen, look_at_edge, look_at_ledger
from overnight.ports import Clock, StorageError
from overnight.settings import Settings, SettingsError
from overnight.wiring.archives import chosen_archives

SKEW_NOTE_SECONDS, SKEW_BAD_SECONDS = 5.0, 300.0
"""Receivers refuse a webhook whose time is five minutes off (Standard Webhooks); less only makes events look odd."""
HTTP_NOT_FOUND = 404
AGAIN = "Run `overnight cloudflare deploy`: it makes what is missing."


async def edge_checks(settings: Settings, clock: Clock | None = None) -> list[Check]:
    """One after the other; the account's are left out if it cannot be asked at all."""
    checks = [_given(settings)]
    checks += await _of_the_edge(settings, clock)
    checks += await _of_the_account(settings)
    if chosen_archives(settings) == "directory":
        checks.append(
            note(
                "Archives of all workers",
                "in a directory of this machine",
                "A worker on another machine would not find them: set SUPABASE_URL or OVERNIGHT_S3_BUCKET.",
            )
        )
    return checks


def _given(settings: Settings) -> Check:
    wanted = {
        "OVERNIGHT_EDGE_URL": settings.edge_url,
        TOKEN_SECRET: settings.ledger_token,
        KEYS_SECRET: settings.keys,
        "CLOUDFLARE_ACCOUNT_ID": settings.cloudflare_account_id,
        "CLOUDFLARE_API_TOKEN": settings.cloudflare_api_token,
        "OVERNIGHT_CLOUDFLARE_QUEUE_ID": settings.cloudflare_queue_id,
    }
    missing = [name for name, value in wanted.items() if not value]
    remedy = (
        "`overnight cloudflare deploy` writes them, all but the token, into worker.env of its data directory."
    )
    finding = f"missing: {', '.join(missing)}" if missing else "all there"
    return judged("Settings of the edge", not missing, finding, remedy)


async def _of_the_edge(settings: Settings, clock: Clock | None) -> list[Check]:
    if settings.edge_url is None:
        return []
    try:
        seen = await look_at_edge(settings.edge_url, clock)
    except NoEdge as reason:
        remedy = "Check OVERNIGHT_EDGE_URL, and that the edge is deployed: `overnight cloudflare deploy`."
        return [judged("Edge", False, str(reason), remedy)]
    return [_edge(settings, seen), _clock(seen), await _ledger(settings)]


def _edge(settings: Settings, seen: Seen) -> Check:
    finding = f"{settings.edge_url} answers, version {seen.version}"
    if seen.version == version("overnight"):
        return judged("Edge", True, finding)
    return note("Edge", f"{finding}; this is {version('overnight')}", "Deploy both from the same version.")


def _clock(seen: Seen) -> Check:
    if seen.ahead_seconds is None:
        return note("Clock", "the edge does not tell the time")
    off = abs(seen.ahead_seconds)
    finding = f"{off:.0f} s {'ahead of' if seen.ahead_seconds > 0 else 'behind'} the edge"
    if off <= SKEW_NOTE_SECONDS:
        return judged("Clock", True, "as the edge's")
    verdict = Verdict.BAD if off > SKEW_BAD_SECONDS else Verdict.NOTE
    return Check(name="Clock", verdict=verdict, finding=finding, remedy="Let NTP set this machine's clock.")


async def _ledger(settings: Settings) -> Check:
    """The token, and that edge and worker speak the same protocol: the messages say which of the two it is."""
    if settings.edge_url is None or settings.ledger_token is None:
        return judged("Ledger", False, f"{TOKEN_SECRET} is not set, so it was not asked")
    try:
        await look_at_ledger(settings.edge_url, settings.ledger_token.get_secret_value())
    except StorageError as reason:
        return judged("Ledger", False, str(reason))
    return judged("Ledger", True, "opens, and speaks the same protocol")


async def _of_the_account(settings: Settings) -> list[Check]:
    try:
        async with opened_account_of(settings) as account:
            return [
                await _token(account),
                *await _queue(account, settings.cloudflare_queue_id),
                await _mirror(account),
            ]
    except SettingsError as error:
        return [judged("Cloudflare", False, str(error))]


async def _token(account: Account) -> Check:
    try:
        state = await account.token_state()
    except AccountProblem as problem:
        return judged("Cloudflare token", False, str(problem))
    remedy = "Make a new one, and set CLOUDFLARE_API_TOKEN."
    return judged("Cloudflare token", state == "active", state or "of no known state", remedy)


async def _queue(account: Account, queue_id: str | None) -> list[Check]:
    """Whether it is there, can be pulled from, and whether the token may."""
    if not queue_id:
        return []
    try:
        found = await account.queue(queue_id)
        consumers = await account.consumers(queue_id)
        may_write = await account.may_write(queue_id)
    except AccountProblem as problem:
        remedy = AGAIN if problem.status == HTTP_NOT_FOUND else None
        return [judged("Queue", False, str(problem), remedy)]
    pull = next((consumer for consumer in consumers if consumer.kind == PULL), None)
    return [
        judged("Queue", pull is not None, f"{found.name}, {_pulled(pull)}", AGAIN),
        _dead_letters(pull),
        judged(
            "Rights of the token",
            may_write,
            "may read and write the queue" if may_write else "may read the queue, but not take from it",
            "Give it the permission Queues Write too.",
        ),
    ]


def _pulled(pull: Consumer | None) -> str:
    return "which has no HTTP pull consumer" if pull is None else "pulled over HTTP"


def _dead_letters(pull: Consumer | None) -> Check:
    if pull is not None and pull.dead_letters == DEAD_LETTERS:
        return judged("Dead letters", True, f"go to {DEAD_LETTERS}")
    return note(
        "Dead letters", "a message that nobody could handle is deleted, and its job waits for an alarm", AGAIN
    )


async def _mirror(account: Account) -> Check:
    """A worker's token needs no right to KV, so that it cannot be looked at is only a note."""
    try:
        namespace = (await account.namespaces()).get(NAMESPACE)
        if namespace is None:
            return note("Mirror", f"there is no KV namespace {NAMESPACE}", AGAIN)
        entries = await account.entries(namespace, prefix=STATUS_PREFIX)
    except AccountProblem as problem:
        remedy = "Nothing is wrong: a worker does not need the right. Ask with the token that deploys."
        return note("Mirror", f"could not be looked at. {problem}", remedy)
    lasting = [entry for entry in entries if entry.expires_at is None]
    remedy = "Another program has written there: delete these keys, or GET /status shows them for good."
    finding = f"{len(entries)} jobs shown, {len(lasting)} of them without an end"
    return judged("Mirror", not lasting, finding, remedy)
