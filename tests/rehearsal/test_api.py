"""The HTTP side, over a real socket: shapes of Anthropic's API, and faults on the wire."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from overnight.rehearsal import serve_rehearsal

KEY = {"x-api-key": "any"}
SESSION = {"x-claude-code-session-id": "session-1"}


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url, headers=KEY, trust_env=False) as client:
        yield client


def request(prompt: str, *, stream: bool = False) -> dict[str, Any]:
    message = {"role": "user", "content": prompt}
    return {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [message], "stream": stream}


def events_of(text: str) -> list[dict[str, Any]]:
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame]
    events: list[dict[str, Any]] = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name for name, _ in frames] == [f"event: {event['type']}" for event in events]
    return events


def assembled(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together from a stream."""
    message: dict[str, Any] = events[0]["message"]
    pieces: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                pieces[event["index"]] = ""
            case "content_block_delta":
                pieces[event["index"]] += event["delta"].get("text", event["delta"].get("partial_json"))
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    for index, piece in pieces.items():
        block = message["content"][index]
        block |= {"text": piece} if block["type"] == "text" else {"input": json.loads(piece)}
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    content = [{key: value for key, value in block.items() if key != "id"} for block in message["content"]]
    return {**message, "id": "", "content": content}


async def test_a_stream_holds_the_same_message_as_a_plain_response(client: httpx.AsyncClient) -> None:
    prompt = f"rehearsal: say {'héllo ' * 50}\nrehearsal: usage 7 9\nrehearsal: bash echo {'x' * 200}"
    plain = await client.post("/v1/messages?beta=true", json=request(prompt))
    streamed = await client.post("/v1/messages", json=request(prompt, stream=True))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["request-id"].startswith("req_")
    events = events_of(streamed.text)
    assert [events[0]["type"], events[1]["type"], events[-2]["type"], events[-1]["type"]] == [
        "message_start",
        "ping",
        "message_delta",
        "message_stop",
    ]
    message = plain.json()
    assert without_ids(assembled(events)) == without_ids(message)
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["input_tokens"] == 7
    assert message["usage"]["output_tokens"] == 9
    assert message["content"][1]["input"]["command"] == f"echo {'x' * 200}"


async def test_an_answer_ends_the_turn(client: httpx.AsyncClient) -> None:
    message = (await client.post("/v1/messages", json=request("rehearsal: big 100000"))).json()
    assert message["stop_reason"] == "end_turn"
    assert len(message["content"][0]["text"]) == 100_000


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "api_error"),
        (529, "overloaded_error"),
    ],
)
async def test_a_scripted_error_has_anthropics_shape(
    client: httpx.AsyncClient, status: int, kind: str
) -> None:
    response = await client.post("/v1/messages", json=request(f"rehearsal: error {status}"))
    assert response.status_code == status
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"]


async def test_an_error_happens_as_often_as_it_says_in_each_session(client: httpx.AsyncClient) -> None:
    async def statuses(session: str) -> list[int]:
        body = request("rehearsal: error 529 x2\nrehearsal: error 500 x1\nrehearsal: answer a")
        headers = {"x-claude-code-session-id": session}
        return [(await client.post("/v1/messages", json=body, headers=headers)).status_code for _ in range(5)]

    assert await statuses("one") == [529, 529, 500, 200, 200]
    assert await statuses("two") == [529, 529, 500, 200, 200]


async def test_an_error_without_a_number_stays(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        response = await client.post("/v1/messages", json=request("rehearsal: error 529"), headers=SESSION)
        assert response.status_code == 529


async def test_a_rate_limit_says_when_to_come_back(client: httpx.AsyncClient) -> None:
    body = request("rehearsal: error 429 retry-after=7 reset=3600")
    headers = (await client.post("/v1/messages", json=body)).headers
    assert headers["retry-after"] == "7"
    assert headers["anthropic-ratelimit-unified-status"] == "rejected"
    assert headers["anthropic-ratelimit-unified-reset"] == "1800003600"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_dropped_response_breaks_off_in_the_middle(
    client: httpx.AsyncClient, *, stream: bool
) -> None:
    body = request("rehearsal: drop x1\nrehearsal: answer here", stream=stream)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/v1/messages", json=body, headers=SESSION)
    assert "here" in (await client.post("/v1/messages", json=body, headers=SESSION)).text


async def test_a_delay_comes_before_the_first_byte(client: httpx.AsyncClient) -> None:
    loop = asyncio.get_running_loop()
    body = request("rehearsal: delay 0.3\nrehearsal: answer x", stream=True)
    start = loop.time()
    async with client.stream("POST", "/v1/messages", json=body) as response:
        assert loop.time() - start >= 0.3
        assert "message_stop" in (await response.aread()).decode()


async def test_a_stall_comes_in_mid_stream(client: httpx.AsyncClient) -> None:
    loop = asyncio.get_running_loop()
    body = request("rehearsal: stall 0.3\nrehearsal: answer x", stream=True)
    async with client.stream("POST", "/v1/messages", json=body) as response:
        chunks = response.aiter_text()
        start, text = loop.time(), await anext(chunks)
        assert "message_start" in text
        assert "message_stop" not in text
        text += "".join([chunk async for chunk in chunks])
        assert loop.time() - start >= 0.25
        assert "message_stop" in text


async def test_closing_ends_a_long_pause() -> None:
    async with httpx.AsyncClient(headers=KEY, trust_env=False) as client:
        async with serve_rehearsal() as url:
            body = request("rehearsal: stall 80000\nrehearsal: answer x", stream=True)
            stream = client.stream("POST", f"{url}/v1/messages", json=body)
            response = await stream.__aenter__()
            await anext(response.aiter_raw())
        with pytest.raises((httpx.RemoteProtocolError, httpx.StreamConsumed)):
            await response.aread()
        await stream.__aexit__(None, None, None)


async def test_any_key_will_do_but_there_has_to_be_one(base_url: str) -> None:
    async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
        for headers, status in [
            ({}, 401),
            ({"authorization": "Basic x"}, 401),
            ({"authorization": "Bearer"}, 401),
            ({"authorization": "Bearer x"}, 200),
            ({"x-api-key": "x"}, 200),
        ]:
            response = await client.post("/v1/messages", json=request("rehearsal: recall"), headers=headers)
            assert response.status_code == status
            assert response.json()["type"] == ("message" if status == 200 else "error")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": 1}',
        b'{"model": "m", "max_tokens": 1, "messages": []}',
        b'{"model": "m", "max_tokens": 1, "messages": [{"role": "user"}]}',
    ],
)
async def test_a_bad_request_is_refused_in_shape(client: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        response = await client.post(path, content=body)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_odd_content_is_tolerated(client: httpx.AsyncClient) -> None:
    body = request("rehearsal: answer fine")
    body["messages"] += [
        {
            "role": "assistant",
            "content": [{"type": "thinking"}, {"type": "tool_use"}, {"type": "text", "text": 1}],
        },
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "tool_result", "content": [{"type": "image"}]}],
        },
    ]
    assert (await client.post("/v1/messages", json=body)).json()["content"][0]["text"] == "fine"


async def test_a_request_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(33):
            yield b" " * (1024 * 1024)

    response = await client.post("/v1/messages", content=endless())
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


async def test_the_other_endpoints(client: httpx.AsyncClient) -> None:
    assert (await client.head("/")).status_code == 200
    counted = await client.post("/v1/messages/count_tokens", json=request("hello"))
    assert counted.json()["input_tokens"] > 0
    models = (await client.get("/v1/models")).json()["data"]
    assert "claude-opus-5-5" in [model["id"] for model in models]
    assert (await client.get("/v1/models/mine")).json()["id"] == "mine"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/files", 404), ("GET", "/v1/messages", 405)]
)
async def test_what_is_not_supported_is_an_error_in_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["type"] == "error"


async def test_a_taken_port_is_an_oserror(base_url: str) -> None:
    with pytest.raises(OSError, match="in use"):
        async with serve_rehearsal(port=int(base_url.rpartition(":")[2])):
            pass


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with serve_rehearsal():
            raise KeyError
