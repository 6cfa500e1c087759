"""What a run may use at the gateway, and how it is counted, over real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from overnight.agent.gateway import open_gateway
from overnight.agent.grants import Allowance, Grant
from overnight.domain.job import Usage
from overnight.serving import listen, url_of

MODEL = "claude-opus-5-5"  # 4 and 20 dollars a million tokens
TOKEN = {"x-api-key": "token"}

Serve = Callable[[ASGIApp], contextlib.AbstractAsyncContextManager[str]]


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


BEGIN = event(
    "message_start",
    message={
        "model": MODEL,
        "usage": {"input_tokens": 1000, "cache_read_input_tokens": 7, "output_tokens": 1},
    },
)
TEXT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 300})
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 50})


@dataclass
class Api:
    """Answers each call with the next of `answers`; the last one stays."""

    answers: list[Callable[[], Response]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    last: bytes = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.last = await Request(scope, receive).body()
        self.bodies.append(json.loads(self.last))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await answer()(scope, receive, send)


@dataclass
class Way:
    client: httpx.AsyncClient
    grant: Grant
    api: Api

    async def ask(self, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "max_tokens": 100, "stream": True, **fields}
        return await self.client.post("/v1/messages", json=body)


Lay = Callable[..., contextlib.AbstractAsyncContextManager[Way]]


@pytest.fixture
def lay(serve: Serve) -> Lay:
    @contextlib.asynccontextmanager
    async def laid(*answers: Callable[[], Response], **allowed: Any) -> AsyncIterator[Way]:
        api, listener = Api(list(answers)), listen("127.0.0.1", 0)
        here = url_of(listener)
        async with (
            serve(api) as url,
            open_gateway(url, {"x-api-key": "real"}, now=lambda: 0.0) as gateway,
            gateway.listening(listener),
            httpx.AsyncClient(base_url=here, headers=TOKEN, trust_env=False, timeout=10) as client,
        ):
            with gateway.grant("token", Allowance(**allowed)) as grant:
                yield Way(client, grant, api)

    return laid


def streamed(*parts: bytes, then: asyncio.Event | None = None) -> Callable[[], Response]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if then is not None:
            await then.wait()

    return lambda: StreamingResponse(body(), media_type="text/event-stream")


def whole(**usage: Any) -> Callable[[], Response]:
    return lambda: JSONResponse({"type": "message", "model": MODEL, "content": [], "usage": usage})


async def test_a_stream_is_counted_as_it_passes(lay: Lay) -> None:
    async with lay(streamed(BEGIN, TEXT, END)) as way:
        answer = await way.ask()
        assert answer.content == BEGIN + TEXT + END
        used, passed = way.grant.used, way.grant.traffic
    assert (passed.asked, passed.sent, passed.received) == (
        1,
        len(answer.request.content),
        len(answer.content),
    )
    assert used.usage == Usage(input_tokens=1000, output_tokens=50, cache_read_input_tokens=7)
    assert used.cost_usd == pytest.approx((1000 * 4 + 50 * 20 + 7 * 0.2) / 1e6)


async def test_a_plain_answer_is_counted(lay: Lay) -> None:
    async with lay(whole(input_tokens=3, output_tokens=4)) as way:
        await way.ask(stream=False)
        await way.ask(stream=False)
    assert way.grant.used.usage == Usage(input_tokens=6, output_tokens=8)


async def test_errors_and_counts_of_tokens_cost_nothing(lay: Lay) -> None:
    async with lay(lambda: JSONResponse({"type": "error"}, 529)) as way:
        await way.ask()
        await way.client.post("/v1/messages/count_tokens", json={"model": MODEL})
    assert way.grant.used.tokens == 0


async def test_the_call_after_the_budget_is_refused_in_the_shape_of_the_api(lay: Lay) -> None:
    async with lay(whole(output_tokens=1_000_000), usd=19.0) as way:
        assert (await way.ask()).status_code == 200
        assert way.grant.over_budget.is_set(), "the run is stopped, though it asks for nothing more"
        refused = await way.ask()
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "budget" in refused.json()["error"]["message"]
    assert len(way.api.bodies) == 1


@pytest.mark.parametrize(
    ("allowed", "passes"),
    [
        ({"usd": 21.0}, True),
        ({"usd": 20.0}, False),
        ({"budget_left": lambda _: 20.0}, False),
        ({"budget_left": lambda _: None}, True),
        ({"usd": 21.0, "budget_left": lambda _: 1.0}, False),
    ],
)
async def test_each_limit_counts(lay: Lay, allowed: dict[str, Any], passes: bool) -> None:
    async with lay(whole(output_tokens=1_000_000), **allowed) as way:
        await way.ask()
        assert ((await way.ask()).status_code == 200) is passes


async def test_the_owners_budget_is_told_what_the_run_has_used_and_known_from_its_own(lay: Lay) -> None:
    told: list[float] = []

    def left(used: float) -> float:
        told.append(used)
        return 20.0

    async with lay(whole(output_tokens=1_000_000), usd=21.0, budget_left=left) as way:
        await way.ask()
        assert way.grant.over_budget.is_set()
    assert told == sorted(told)
    assert (told[0], told[-1], way.grant.over_daily) == (0.0, 20.0, True)
    async with lay(whole(output_tokens=1_000_000), usd=20.0, budget_left=left) as way:
        await way.ask()
    assert (way.grant.over_budget.is_set(), way.grant.over_daily) == (True, False)


async def test_nothing_passes_without_a_budget(lay: Lay) -> None:
    async with lay(whole(), usd=-1.0) as way:
        assert (await way.ask()).status_code == 429
        assert way.grant.over_budget.is_set()
    assert way.api.bodies == []


async def test_a_stream_that_passes_the_budget_ends_the_others(lay: Lay) -> None:
    dear = event("message_start", message={"model": MODEL, "usage": {"input_tokens": 1_000_000}})
    body = {"model": MODEL, "stream": True}
    async with (
        lay(streamed(BEGIN, then=asyncio.Event()), streamed(dear, then=asyncio.Event()), usd=1.0) as way,
        way.client.stream("POST", "/v1/messages", json=body) as first,
    ):
        stream = first.aiter_raw()
        assert await anext(stream) == BEGIN
        asking = asyncio.create_task(way.ask())
        assert [part async for part in stream] == []
        assert way.grant.over_budget.is_set(), "although the dear one goes on"
        way.grant.revoke()
        assert (await asking).content == dear


async def test_hanging_up_before_the_usage_is_told_is_not_free(lay: Lay) -> None:
    async with lay(streamed(BEGIN, TEXT, then=asyncio.Event())) as way:
        async with way.client.stream("POST", "/v1/messages", json={"model": MODEL, "stream": True}) as answer:
            received = b""
            async for part in answer.aiter_raw():
                received += part
                if received == BEGIN + TEXT:
                    break
        way.grant.revoke()
    assert way.grant.used.usage.input_tokens == 1000
    assert way.grant.used.usage.output_tokens >= 100, "300 characters were seen"


async def test_a_thought_that_is_not_shown_is_not_free(lay: Lay) -> None:
    """It comes sealed, in a signature, and is paid for as if it were shown."""
    sealed = event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x" * 4000})
    async with lay(streamed(BEGIN, sealed)) as way:
        await way.ask()
    assert way.grant.used.usage.output_tokens == 1000


@pytest.mark.parametrize(("shown", "tokens"), [(300, 1000), (6000, 2000)])
async def test_a_thought_that_is_shown_is_not_counted_twice(lay: Lay, shown: int, tokens: int) -> None:
    thought = [
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "x" * shown}),
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x" * 4000}),
    ]
    async with lay(streamed(BEGIN, *thought)) as way:
        await way.ask()
    assert way.grant.used.usage.output_tokens == tokens


async def test_hanging_up_before_the_answer_is_charged_as_if_there_had_been_one(lay: Lay) -> None:
    arrived = asyncio.Event()

    def silent() -> Response:
        arrived.set()
        return streamed(then=asyncio.Event())()

    async with lay(silent) as way:
        asking = asyncio.create_task(way.ask(stream=False, max_tokens=4000, system="x" * 3000))
        await arrived.wait()
        asking.cancel()
        await asyncio.wait({asking})
        way.grant.revoke()
    assert way.grant.used.usage.output_tokens == 4000
    assert way.grant.used.usage.input_tokens >= 1000


async def test_an_answer_that_breaks_off_is_cut_and_counted(lay: Lay) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await send({"type": "http.response.body", "body": BEGIN, "more_body": True})

    async with lay(lambda: broken) as way:
        with pytest.raises(httpx.RemoteProtocolError):
            await way.ask()
    assert way.grant.used.usage.input_tokens == 1000


async def test_only_the_models_that_are_allowed(lay: Lay) -> None:
    async with lay(whole(), models=frozenset({MODEL})) as way:
        assert (await way.ask()).status_code == 200
        refused = await way.ask(model="claude-fable-5-1")
        nameless = await way.client.post("/v1/messages", json={})
    assert (refused.status_code, nameless.status_code) == (403, 403)
    assert refused.json()["error"]["type"] == "permission_error"
    assert [body["model"] for body in way.api.bodies] == [MODEL]


async def test_a_family_that_is_allowed_is_allowed_by_its_real_names(lay: Lay) -> None:
    async with lay(whole(), models=frozenset({"opus"})) as way:
        assert (await way.ask()).status_code == 200
        assert (await way.ask(model="claude-sonnet-5-5")).status_code == 403


async def test_the_api_sees_the_model_that_was_judged(lay: Lay) -> None:
    twice = b'{"model": "claude-fable-5-1", "mod\\u0065l": "%b", "temperature": 0.10}' % MODEL.encode()
    async with lay(whole(), models=frozenset({MODEL})) as way:
        assert (await way.client.post("/v1/messages", content=twice)).status_code == 200
        other = b'{"model": "%b", "model": "claude-fable-5-1"}' % MODEL.encode()
        assert (await way.client.post("/v1/messages", content=other)).status_code == 403
    assert way.api.bodies == [{"model": MODEL, "temperature": 0.1}]
    assert b"fable" not in way.api.last, "nor does it see the other one"


async def test_a_run_has_so_many_calls_at_once(lay: Lay) -> None:
    held = streamed(BEGIN, then=asyncio.Event())
    async with lay(held, concurrency=2) as way, contextlib.AsyncExitStack() as stack:
        streams = []
        for _ in range(2):
            call = way.client.stream("POST", "/v1/messages", json={"model": MODEL, "stream": True})
            streams.append((await stack.enter_async_context(call)).aiter_raw())
            await anext(streams[-1])
        refused = await way.ask()
        assert refused.status_code == 429
        assert not way.grant.over_budget.is_set()
        way.grant.revoke()
