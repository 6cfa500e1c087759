"""What the credential gateway adds to the first byte of an answer. See bench/README.md."""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvloop

from overnight.agent.gateway import open_gateway
from overnight.agent.grants import Allowance
from overnight.serving import listen, serving, url_of

EVENTS = [
    {"type": "message_start", "message": {"model": "claude-opus-5-5", "usage": {"input_tokens": 9}}},
    *({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 40}} for _ in range(50)),
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 700}},
]
THINKING_SECONDS = 0.005
PARTS = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in EVENTS]


async def upstream(_scope: Any, receive: Any, send: Any) -> None:
    """Reads the request, then streams the answer: the first event alone, as a model has to think."""
    while (await receive())["more_body"]:
        pass
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in PARTS:
        await send({"type": "http.response.body", "body": part, "more_body": True})
        if part is PARTS[0]:
            await asyncio.sleep(THINKING_SECONDS)
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def ways() -> AsyncIterator[dict[str, str]]:
    """The same upstream, directly and by the gateway, all in this process."""
    far, near = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    direct, through = url_of(far), url_of(near)
    async with (
        serving(upstream, far),
        open_gateway(direct, {"x-api-key": "real"}, now=time.time) as gateway,
    ):
        with gateway.grant("token", Allowance(usd=1e9)) as grant:
            async with gateway.listening(near, only=grant):
                yield {"direct": direct, "gateway": through}


async def one(client: httpx.AsyncClient, url: str, body: bytes) -> tuple[float, float]:
    """Milliseconds to the first byte of the answer's body, and to its last."""
    begun = time.perf_counter()
    first = 0.0
    async with client.stream("POST", f"{url}/v1/messages", content=body) as answer:
        async for _ in answer.aiter_raw():
            first = first or time.perf_counter() - begun
    return first * 1e3, (time.perf_counter() - begun) * 1e3


async def measure(rounds: int, kibibytes: int) -> None:
    message = {"role": "user", "content": "x" * kibibytes * 1024}
    body = json.dumps({"model": "claude-opus-5-5", "max_tokens": 99, "messages": [message]}).encode()
    found: dict[str, list[tuple[float, float]]] = {"direct": [], "gateway": []}
    async with ways() as urls, httpx.AsyncClient(headers={"x-api-key": "token"}, trust_env=False) as client:
        for turn in range(rounds + 5):  # interleaved, so that a busy moment of the machine hits both alike
            for name, url in urls.items():
                times = await one(client, url, body)
                if turn >= 5:  # the first ones connect and warm up
                    found[name].append(times)
    for column, what in enumerate(("first byte", "last byte")):
        medians = {name: statistics.median(times[column] for times in runs) for name, runs in found.items()}
        added = statistics.median(
            through[column] - direct[column]
            for direct, through in zip(found["direct"], found["gateway"], strict=True)
        )
        print(
            f"| {kibibytes} KiB | {what} | {medians['direct']:.2f} | {medians['gateway']:.2f} | {added:.2f} |"
        )


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=200)
    given = arguments.parse_args()
    print("| request | | direct, ms | by the gateway, ms | added, ms (median of pairs) |")
    print("|---|---|---|---|---|")
    uvloop.install()
    for kibibytes in (1, 48, 1024):
        asyncio.run(measure(given.rounds, kibibytes))


if __name__ == "__main__":
    main()
