"""Chat over HTTP: shapes that OpenAI's client reads, order, streams, and the engine's own bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from serve_parts import FakeModel, ask, served

from anyany import AnyToAny
from anyany.messages import ImagePart, Message, TextPart
from anyany.serve.app import Server
from anyany.serve.model import SystemModel
from anyany.serve.stream import Mailbox, _Parts

CHAT = "/v1/chat/completions"
STEPS = 2


@pytest.fixture(scope="module")
def pocket() -> Iterator[tuple[httpx.Client, AnyToAny]]:
    system = AnyToAny.from_pretrained("pocket", threads=None)
    with served(SystemModel(system)) as (client, _):
        yield client, system


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[httpx.Client, Server]]:
    with served(FakeModel()) as found:
        yield found


def events(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a stream; it must end as streams do."""
    with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def of_type(chunks: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [chunk for chunk in chunks if chunk.get("event", {}).get("type") == kind]


def data_of(part: dict[str, Any]) -> bytes:
    held = part.get("image_url") or part.get("video_url") or part["audio_url"]
    return base64.b64decode(held["url"].partition(",")[2])


def test_the_same_request_and_seed_give_the_bytes_of_the_engine(
    pocket: tuple[httpx.Client, AnyToAny], tmp_path: Path
) -> None:
    client, system = pocket
    text = "draw a small red bell on the left"
    reply = system.generate(
        text, outputs={"text", "image"}, seed=7, num_inference_steps=STEPS, temperature=0.5
    )
    wanted = reply.images[0].save(tmp_path / "x.png").read_bytes()
    body = ask(text, "text", "image", seed=7, num_inference_steps=STEPS, temperature=0.5)
    answer = client.post(CHAT, json=body).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == reply.text
    assert [part["type"] for part in message["parts"]] == ["text", "image_url"]
    assert data_of(message["parts"][1]) == data_of(message["images"][0]) == wanted
    assert answer["usage"]["completion_tokens"] == len(reply.token_ids)
    chunks = events(client, body)
    (part,) = of_type(chunks, "part")[0]["choices"][0]["delta"]["images"]
    assert data_of(part) == wanted
    assert part == {**message["parts"][1]}


def test_a_picture_goes_in_and_the_conversation_goes_on(
    pocket: tuple[httpx.Client, AnyToAny], tmp_path: Path
) -> None:
    client, system = pocket
    options = {"outputs": {"image"}, "seed": 3, "num_inference_steps": STEPS}
    bell = system.generate("draw a red bell", **options).images[0]  # type: ignore[arg-type]
    picture = bell.save(tmp_path / "bell.png").read_bytes()
    url = {"url": f"data:image/png;base64,{base64.b64encode(picture).decode()}"}
    turn = {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": url},
        ],
    }
    said = client.post(CHAT, json={"messages": [turn], "modalities": ["text"], "seed": 1}).json()
    first = Message("user", (TextPart("what is this?"), ImagePart.read(picture)))
    wanted = system.generate([first], outputs={"text"}, seed=1)
    assert said["choices"][0]["message"]["content"] == wanted.text
    more = {"role": "user", "content": "make it blue"}
    body = {
        "messages": [turn, said["choices"][0]["message"], more],
        "modalities": ["image"],
        "seed": 2,
        "num_inference_steps": STEPS,
    }
    again = client.post(CHAT, json=body).json()["choices"][0]["message"]
    turns = [first, wanted.message(), Message("user", (TextPart("make it blue"),))]
    blue = system.generate(turns, outputs={"image"}, seed=2, num_inference_steps=STEPS)
    assert data_of(again["images"][0]) == blue.images[0].save(tmp_path / "b.png").read_bytes()


def test_an_answer_says_how_many_turns_it_was_made_without(
    pocket: tuple[httpx.Client, AnyToAny],
) -> None:
    client, _ = pocket
    told = [
        {"role": role, "content": words}
        for _ in range(8)
        for role, words in (("user", "a small red bell " * 16), ("assistant", "here is a bell."))
    ]
    body = {"messages": [*told, {"role": "user", "content": "hello"}], "modalities": ["text"]}
    short = {**body, "truncate": "oldest_turns", "max_tokens": 8}
    dropped = client.post(CHAT, json=short).json()["dropped_turns"]
    assert 0 < dropped < 8
    (finish,) = of_type(events(client, short), "finish")
    assert finish["event"]["dropped_turns"] == dropped


def test_the_unmodified_openai_client_chats_and_streams(
    pocket: tuple[httpx.Client, AnyToAny],
) -> None:
    client, _ = pocket
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="unused") as own:
        messages: Any = [{"role": "user", "content": "draw a drum"}]
        extra = {"modalities": ["text", "image"], "num_inference_steps": STEPS}
        whole = own.chat.completions.create(
            model="pocket", messages=messages, seed=5, extra_body=extra
        )
        assert whole.choices[0].message.content
        extras = cast("dict[str, Any]", whole.choices[0].message.model_extra)
        assert data_of(extras["images"][0]).startswith(b"\x89PNG")
        stream = own.chat.completions.create(
            model="pocket",
            messages=messages,
            seed=5,
            extra_body=extra,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        assert own.models.list().data[0].id == "pocket"
        with pytest.raises(openai.BadRequestError, match="modalities"):
            own.chat.completions.create(
                model="pocket", messages=messages, extra_body={"modalities": ["smell"]}
            )
        with pytest.raises(openai.NotFoundError, match="has the model pocket"):
            own.chat.completions.create(model="gpt-4o", messages=messages)


def test_a_stream_tells_everything_in_order(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    chunks = events(client, ask("one two three", "text", "image", "audio", seed=9))
    kinds = [chunk["event"]["type"] for chunk in chunks]
    assert kinds[0] == "start"
    assert chunks[0]["event"]["seed"] == 9
    assert kinds[-1] == "finish"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert "".join(c["event"]["text"] for c in of_type(chunks, "text")) == "one two three"
    parts = of_type(chunks, "part")
    assert [chunk["event"]["index"] for chunk in parts] == [1, 2]
    assert [list(chunk["choices"][0]["delta"]) for chunk in parts] == [["images"], ["audios"]]
    assert kinds.index("text") < kinds.index("part")
    last_step = max(i for i, kind in enumerate(kinds) if kind == "progress")
    assert last_step < len(kinds) - 2
    assert chunks[last_step]["event"]["step"] == chunks[last_step]["event"]["total"]


def test_every_medium_goes_in_and_comes_out(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    made = client.post(CHAT, json=ask("x", "image", "video", "audio", seed=4)).json()
    message = made["choices"][0]["message"]
    parts = message["parts"]
    assert [part["modality"] for part in parts] == ["image", "video", "audio"]
    assert base64.b64decode(message["audio"]["data"])[:4] == b"RIFF"
    assert data_of(message["videos"][0])[4:8] == b"ftyp"
    content = [{"type": "text", "text": "and these?"}, *parts]
    body = {"messages": [{"role": "user", "content": content}], "modalities": ["text"]}
    answer = client.post(CHAT, json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "and these?"


def test_numbers_of_parts_are_those_of_the_engine() -> None:
    parts = _Parts(True)
    assert parts.text("a ") == (0, "a")
    assert parts.text("b ") == (0, " b")
    assert parts.span("image") == (1, 0)
    assert parts.text(" ") is None
    assert parts.span("image") == (2, 1)
    assert parts.text("c") == (3, "c")
    hidden = _Parts(False)
    assert hidden.text("a") is None
    assert hidden.span("audio") == (0, 0)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            400,
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
                        ],
                    }
                ]
            },
            400,
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
                        ],
                    }
                ]
            },
            400,
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image_url",
                                "image_url": {"url": "data:image/png;base64,AAAA"},
                            }
                        ],
                    }
                ]
            },
            400,
            "messages.0.content.0",
        ),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"seed": -1}, 400, "seed"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"n": 2}, 400, "n"),
        ({"temprature": 1}, 400, "temprature"),
        ({"max_tokens": 100_000}, 400, "max_tokens"),
        ({"decoding": {"image": {"num_inference_steps": 900}}}, 400, "num_inference_steps"),
        ({"decoding": {"smell": {}}}, 400, "decoding"),
        ({"model": "other"}, 404, "model"),
    ],
)
def test_what_is_off_is_named(
    fake: tuple[httpx.Client, Server], change: dict[str, Any], status: int, param: str
) -> None:
    client, _ = fake
    response = client.post(CHAT, json={**ask("hello"), **change})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert error["message"]


def test_neutral_values_of_other_fields_pass(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    more = {
        "n": 1,
        "frequency_penalty": 0,
        "user": "me",
        "tools": None,
        "logprobs": False,
        "response_format": {"type": "text"},
        "extra_body": {"top_k": 3},
    }
    assert client.post(CHAT, json=ask("hello", **more)).status_code == 200


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"messages": NaN}', "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"{}", "text/plain", 415),
    ],
)
def test_bodies_that_are_none(
    fake: tuple[httpx.Client, Server], data: bytes, kind: str, status: int
) -> None:
    client, _ = fake
    response = client.post(CHAT, content=data, headers={"content-type": kind})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_an_error_in_the_middle_of_a_stream_is_an_event() -> None:
    from anyany.errors import UsageError

    model = FakeModel()

    def fail(request: Any) -> None:
        raise UsageError("expected height as a multiple of 8")

    model.hook = fail
    with served(model) as (client, _):
        chunks = events(client, ask("x", "image"))
    assert chunks[-1]["error"]["message"] == "expected height as a multiple of 8"


def test_denoising_steps_overtake_one_another() -> None:
    import asyncio

    from anyany.requests import DenoisingStep

    async def take() -> list[Any]:
        mailbox = Mailbox()
        for step in (1, 2, 3):
            mailbox.put(DenoisingStep("image", 0, step, 3))
        mailbox.put(DenoisingStep("image", 1, 1, 3))
        return mailbox.take()

    assert [(e.index, e.step) for e in asyncio.run(take())] == [(0, 3), (1, 1)]


def test_prompts_that_no_model_takes_are_refused_before_the_stream(
    pocket: tuple[httpx.Client, AnyToAny],
) -> None:
    client, _ = pocket
    for body in (ask(" ", "text", stream=True), ask("x " * 5000, "text")):
        response = client.post(CHAT, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages"


def test_what_the_model_does_not_make_is_refused() -> None:
    model = FakeModel()
    model.outputs = ("text", "image")
    with served(model) as (client, _):
        for modality, path in (("video", "/v1/videos"), ("audio", "/v1/audio/generations")):
            response = client.post(path, json={"prompt": "a bell"})
            assert response.status_code == 400
            assert response.json()["error"]["message"].endswith(f"not {modality}")
