"""Pictures, sounds, clips, files, batches, and what a server says of itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_parts import FakeModel, ask, png, served, until

from anyany.media import read_image
from anyany.serve.app import Server

GENERATE = "/v1/images/generations"
BATCH_LINES = [
    {
        "custom_id": "b",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": ask("two words", "text", "image", seed=3),
    },
    {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": ask("one", "text"),
    },
]


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[httpx.Client, Server]]:
    with served(FakeModel(), most_steps=50) as found:
        yield found


@pytest.fixture
def client(fake: tuple[httpx.Client, Server]) -> httpx.Client:
    return fake[0]


def test_pictures_have_seeds_in_a_row(client: httpx.Client) -> None:
    answer = client.post(GENERATE, json={"prompt": "x", "n": 3, "seed": 40}).json()
    assert [entry["seed"] for entry in answer["data"]] == [40, 41, 42]
    reds = [read_image(base64.b64decode(e["b64_json"])).getpixel((0, 0)) for e in answer["data"]]
    assert reds == [(40, 10, 20), (41, 10, 20), (42, 10, 20)]
    more = {"prompt": "x", "response_format": "url", "output_format": "webp"}
    (entry,) = client.post(GENERATE, json=more).json()["data"]
    assert entry["url"].startswith("data:image/webp;base64,UklGR")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "x", "n": 9}, 413, "n"),
        ({"prompt": "x", "size": "big"}, 400, "size"),
        ({"prompt": "x", "size": "4096x4096"}, 400, "size"),
        ({"prompt": ""}, 400, "prompt"),
        ({}, 400, "prompt"),
        ({"prompt": "x", "num_inference_steps": 51}, 400, "num_inference_steps"),
        ({"prompt": "x", "stream": True}, 400, "stream"),
    ],
)
def test_pictures_that_cannot_be(
    client: httpx.Client, body: dict[str, Any], status: int, param: str
) -> None:
    response = client.post(GENERATE, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_pictures_are_edited(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="unused") as own:
        made = own.images.edit(
            model="fake",
            image=("x.png", png(), "image/png"),
            prompt="bluer",
            extra_body={"seed": 9},
        )
    assert made.data is not None
    assert read_image(base64.b64decode(made.data[0].b64_json or "")).getpixel((0, 0)) == (9, 10, 20)
    broken = {"image": ("x.png", b"\x89PNG\r\n\x1a\nxx", "image/png")}
    refused = client.post("/v1/images/edits", data={"prompt": "x"}, files=broken)
    assert refused.json()["error"]["code"] == "media_corrupt"
    masked = {"image": ("x.png", png()), "mask": ("m.png", png())}
    assert client.post("/v1/images/edits", data={"prompt": "x"}, files=masked).status_code == 400
    assert client.post("/v1/images/edits", json={"prompt": "x"}).status_code == 415


def test_sounds_come_as_files_and_as_objects(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="unused") as own:
        heard = own.audio.speech.create(
            model="fake", voice="alloy", input="a bell", response_format="wav"
        )
        assert heard.read()[:4] == b"RIFF"
    flac = client.post("/v1/audio/speech", json={"input": "x", "response_format": "flac"})
    assert flac.content[:4] == b"fLaC"
    assert flac.headers["content-disposition"].startswith("attachment")
    mp3 = client.post("/v1/audio/speech", json={"input": "x", "response_format": "mp3"})
    assert mp3.json()["error"]["param"] == "response_format"
    body = {"prompt": "a bell", "seed": 5, "seconds": 2}
    (entry,) = client.post("/v1/audio/generations", json=body).json()["data"]
    assert entry["seed"] == 5
    assert base64.b64decode(entry["b64_json"])[:4] == b"RIFF"
    assert client.post("/v1/audio/generations", json={}).status_code == 400
    long = client.post("/v1/audio/generations", json={**body, "seconds": 31})
    assert long.json()["error"]["param"] == "seconds"


def test_clips_are_jobs(client: httpx.Client) -> None:
    job = client.post("/v1/videos", json={"prompt": "a bell", "seed": 2}).json()
    assert job["object"] == "video"
    assert job["status"] in ("queued", "in_progress", "completed")
    until(lambda: client.get(f"/v1/videos/{job['id']}").json()["status"] == "completed")
    done = client.get(f"/v1/videos/{job['id']}").json()
    assert (done["progress"], done["seed"], done["error"]) == (100, 2, None)
    clip = client.get(f"/v1/videos/{job['id']}/content")
    assert clip.content[4:8] == b"ftyp"
    assert clip.headers["content-disposition"] == 'attachment; filename="video_0.mp4"'
    assert [entry["id"] for entry in client.get("/v1/videos").json()["data"]] == [job["id"]]
    assert client.delete(f"/v1/videos/{job['id']}").json()["deleted"]
    assert client.get(f"/v1/videos/{job['id']}").status_code == 404
    given = {"input_reference": ("x.png", png(), "image/png")}
    form = client.post("/v1/videos", data={"prompt": "go on", "seed": "3"}, files=given)
    assert form.json()["seed"] == 3


def test_a_clip_at_work_can_be_dropped_or_fail() -> None:
    from anyany.errors import UsageError

    model = FakeModel(step_seconds=0.02)
    with served(model) as (client, _):
        job = client.post("/v1/videos", json={"prompt": "long", "num_inference_steps": 200}).json()
        until(lambda: client.get(f"/v1/videos/{job['id']}").json()["progress"] > 0)
        early = client.get(f"/v1/videos/{job['id']}/content")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
        client.delete(f"/v1/videos/{job['id']}")
        until(lambda: model.cancelled == ["long"], 2.0)

        def fail(request: Any) -> None:
            raise UsageError("expected something else")

        model.hook = fail
        job = client.post("/v1/videos", json={"prompt": "x"}).json()
        until(lambda: client.get(f"/v1/videos/{job['id']}").json()["status"] == "failed")
        error = client.get(f"/v1/videos/{job['id']}").json()["error"]
        assert error["message"] == "expected something else"


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def upload(client: httpx.Client, content: bytes) -> str:
    answer = client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_a_batch_runs_through_the_ledger(fake: tuple[httpx.Client, Server]) -> None:
    client, server = fake
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="unused") as own:
        stored = own.files.create(file=("in.jsonl", lines(BATCH_LINES)), purpose="batch")
        batch = own.batches.create(
            input_file_id=stored.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        until(lambda: own.batches.retrieve(batch.id).status == "completed")
        done = own.batches.retrieve(batch.id)
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (2, 0)
        assert done.output_file_id is not None
        assert done.error_file_id is None
        text = own.files.content(done.output_file_id).text
    found = [json.loads(line) for line in text.splitlines()]
    assert [line["custom_id"] for line in found] == ["a", "b"]
    message = found[1]["response"]["body"]["choices"][0]["message"]
    alone = client.post("/v1/chat/completions", json=BATCH_LINES[1 - 1]["body"]).json()
    wanted = alone["choices"][0]["message"]
    assert message["content"] == wanted["content"]
    assert message["images"][0]["image_url"] == wanted["images"][0]["image_url"]
    assert (server.store.root / "batches" / batch.id / "run" / ".anyany" / "run.json").is_file()
    assert client.delete(f"/v1/files/{stored.id}").json()["deleted"]
    assert client.get(f"/v1/files/{stored.id}").status_code == 404


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}\n", "custom_id"),
        (b"", "at least one request"),
        (lines([{**BATCH_LINES[0], "url": GENERATE, "body": {"prompt": "x"}}]), "endpoint"),
        (
            lines(
                [
                    {
                        **BATCH_LINES[0],
                        "body": {
                            "messages": [
                                {
                                    "role": "user",
                                    "content": [
                                        {
                                            "type": "image_url",
                                            "image_url": {"url": "http://127.0.0.1/x"},
                                        }
                                    ],
                                }
                            ]
                        },
                    }
                ]
            ),
            "URL",
        ),
    ],
)
def test_a_batch_that_cannot_run_says_why(client: httpx.Client, content: bytes, said: str) -> None:
    body = {"input_file_id": upload(client, content), "endpoint": "/v1/chat/completions"}
    batch = client.post("/v1/batches", json=body).json()
    until(lambda: client.get(f"/v1/batches/{batch['id']}").json()["status"] == "failed")
    errors = client.get(f"/v1/batches/{batch['id']}").json()["errors"]["data"]
    assert said.lower() in errors[0]["message"].lower()
    assert errors[0]["line"] == 1


def test_a_batch_reads_no_file_of_the_server(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    for url in ("secret.png", str(tmp_path / "secret.png"), "../../in.jsonl"):
        part = {"type": "image_url", "image_url": {"url": url}}
        line = {**BATCH_LINES[0], "body": {"messages": [{"role": "user", "content": [part]}]}}
        body = {"input_file_id": upload(client, lines([line])), "endpoint": "/v1/chat/completions"}
        id = client.post("/v1/batches", json=body).json()["id"]
        until(
            lambda i=id: (
                client.get(f"/v1/batches/{i}").json()["status"]  # type: ignore[misc]
                in ("completed", "failed")
            )
        )
        found = client.get(f"/v1/batches/{id}").json()
        assert found["request_counts"]["completed"] == 0
        assert str(tmp_path) not in json.dumps(found["errors"]) or url.startswith("/")


def test_a_batch_stops_when_told_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    model = FakeModel(word_seconds=0.05)
    records = [
        {**BATCH_LINES[1], "custom_id": f"r{i}", "body": ask(f"item {i}", "text")}
        for i in range(40)
    ]
    body = {"endpoint": "/v1/chat/completions"}
    with served(model, state=tmp_path / "state") as (client, _):
        first = {**body, "input_file_id": upload(client, lines(records))}
        left = client.post("/v1/batches", json=first).json()["id"]
        until(lambda: client.get(f"/v1/batches/{left}").json()["request_counts"]["completed"] >= 8)
        second = client.post("/v1/batches", json=first).json()["id"]
        client.post(f"/v1/batches/{second}/cancel")
        state = client.get(f"/v1/batches/{second}").json()["status"]
        assert state in ("cancelling", "cancelled")
    again = FakeModel()
    with served(again, state=tmp_path / "state") as (client, _):
        until(lambda: client.get(f"/v1/batches/{left}").json()["status"] == "completed")
        until(lambda: client.get(f"/v1/batches/{second}").json()["status"] == "cancelled")
        counts = client.get(f"/v1/batches/{left}").json()["request_counts"]
        assert counts == {"total": 40, "completed": 40, "failed": 0}
    assert 0 < sum(len(call) for call in again.calls) <= 32


def test_files_and_jobs_belong_to_their_key() -> None:
    keys = ("key-of-alice-0123", "key-of-bob-456789")
    with served(FakeModel(), api_keys=keys, key=keys[0]) as (alice, _):
        file = upload(alice, lines(BATCH_LINES))
        clip = alice.post("/v1/videos", json={"prompt": "x"}).json()["id"]
        bob = {"authorization": f"Bearer {keys[1]}"}
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content", f"/v1/videos/{clip}"):
            assert alice.get(path).status_code in (200, 409)
            assert alice.get(path, headers=bob).status_code == 404
        for path in ("/v1/files", "/v1/videos", "/v1/batches"):
            assert alice.get(path, headers=bob).json()["data"] == []
        body = {"input_file_id": file, "endpoint": "/v1/chat/completions"}
        assert alice.post("/v1/batches", json=body, headers=bob).status_code == 404


def test_what_a_server_says_of_itself(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    client.post("/v1/chat/completions", json=ask("hello there", "text"))
    (model,) = client.get("/v1/models").json()["data"]
    assert model["modalities"]["output"] == ["text", "image", "video", "audio"]
    assert model == client.get("/v1/models/fake").json()
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    text = client.get("/metrics").text
    assert 'anyany_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "anyany_tokens_total " in text
    assert 'anyany_wait_seconds_bucket{kind="text",le="+Inf"}' in text
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rpartition(" ")[2]) >= 0
    schema = client.get("/openapi.json").json()
    assert "/v1/chat/completions" in schema["paths"]
    for path in ("/docs", "/redoc", "/nothing"):
        assert client.get(path).json()["error"]["code"] == "not_found"
    assert client.put("/v1/models").json()["error"]["code"] == "method"


def test_the_page_is_served_and_nothing_beside_it(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page/",
        "/page/.hidden.js",
        "/page//etc/passwd",
        "/page/none.js",
    ):
        raw = httpx.URL(str(client.base_url)).copy_with(raw_path=path.encode())
        assert client.get(raw).status_code == 404, path


def test_temporary_files_end_with_the_server() -> None:
    with served(FakeModel()) as (client, server):
        upload(client, lines(BATCH_LINES))
        root = server.store.root
        assert root.stat().st_mode & 0o077 == 0
    assert not root.exists()
    assert not server.service.scheduler.alive
