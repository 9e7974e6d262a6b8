"""H6 to H10 of the hardening goals: who may ask, what is never told, and the end."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_parts import FakeModel, address_of, ask, raw, served, until

from anyany.serve.app import Server

CHAT = "/v1/chat/completions"
KEY = "a-key-of-16-letters"
LEAKS = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|/root|/work|Traceback|site-packages|File \"")
MIB = 2**20


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[httpx.Client, Server]]:
    with served(FakeModel(), body_bytes=10 * MIB, part_bytes=3 * MIB) as found:
        yield found


# H6


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY.upper()}",
        f"Bearer x{KEY}",
        f"Bearer {KEY[::-1]}",
        f"Bearer {KEY} {KEY}",
        f"Bearer '{KEY}'",
        "Bearer null",
        "Bearer undefined",
        f"Bearer {KEY},other",
        f"Token {KEY}",
        "Bearer *",
        f"Bearer\t{KEY}",
        "Bearer " + "x" * 4000,
        f"Bearer {base64.b64encode(KEY.encode()).decode()}",
    ],
)
def test_h6_wrong_keys_are_refused(guarded: httpx.Client, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/models", "/metrics", "/v1/files", "/openapi.json"):
        response = guarded.get(path, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    with served(FakeModel(), api_keys=(KEY, "another-key-of-some")) as (client, _):
        yield client


def test_h6_right_keys_pass_and_some_paths_need_none(guarded: httpx.Client) -> None:
    for key in (KEY, "another-key-of-some"):
        response = guarded.get("/v1/models", headers={"authorization": f"bearer {key}"})
        assert response.status_code == 200
    for path in ("/healthz", "/readyz", "/"):
        assert guarded.get(path).status_code == 200


# H7


def test_h7_foreign_hosts_and_origins_are_refused(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    host, port = address_of(client)
    for name in ("evil.example", "127.0.0.1.evil.example", "", f"evil.example:{port}", "10.0.0.1"):
        response = client.get("/v1/models", headers={"host": name})
        assert response.status_code in (400, 403), name
    for name in (f"localhost:{port}", f"{host}:{port}", "LOCALHOST"):
        assert client.get("/v1/models", headers={"host": name}).status_code == 200
    for origin in (
        "https://evil.example",
        "null",
        f"https://evil.example:{port}",
        "http://[",
        f"http://localhost:{port + 1}",
    ):
        response = client.post(CHAT, json=ask("x"), headers={"origin": origin})
        assert response.status_code == 403, origin
        assert "access-control-allow-origin" not in response.headers
    own = client.post(CHAT, json=ask("x"), headers={"origin": f"http://{host}:{port}"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def test_h7_an_allowed_origin_gets_cors() -> None:
    origin = "https://app.example"
    with served(FakeModel(), allow_origins=(origin,), api_keys=(KEY,), key=KEY) as (client, _):
        asked = {"origin": origin, "access-control-request-method": "POST"}
        preflight = client.options(CHAT, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        answer = client.post(CHAT, json=ask("x"), headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        del client.headers["authorization"]
        refused = client.post(CHAT, json=ask("x"), headers={"origin": origin})
        assert refused.status_code == 401


def test_h7_every_answer_has_its_headers(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    answers = [
        client.get("/"),
        client.get("/v1/models"),
        client.get("/nothing"),
        client.post(CHAT, content=b"{"),
        client.get("/v1/models", headers={"host": "evil.example"}),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-request-id"].startswith("req-")
        assert "server" not in answer.headers


# H8 is test_serve_schema.py


# H9


def test_h9_no_error_tells_of_the_inside() -> None:
    model = FakeModel()

    def fail(request: Any) -> None:
        raise RuntimeError(f"at {object()!r} in {__file__}")

    model.hook = fail
    broken = {
        "png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        "gif": b"GIF89a" + b"\xff" * 40,
        "mp4": b"\0\0\0\x18ftypmp42" + b"\0" * 40,
        "wav": b"RIFF\xff\xff\xff\xffWAVEfmt " + b"\0" * 20,
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    }
    with served(model) as (client, _):
        answers = [
            client.post(CHAT, json=ask("x", "text")),
            client.get("/v1/files/../../etc/passwd"),
            client.get("/v1/files/file-0"),
            client.post(CHAT, content=b"\0\xff"),
            client.post(
                "/v1/images/edits",
                content=b"--x",
                headers={"content-type": "multipart/form-data; boundary=x"},
            ),
        ]
        for data in broken.values():
            text = base64.b64encode(data).decode()
            for kind in ("image_url", "video_url", "audio_url"):
                part = {"type": kind, kind: {"url": f"data:x/y;base64,{text}"}}
                turn = {"role": "user", "content": [part]}
                answers.append(client.post(CHAT, json={"messages": [turn]}))
        streamed = client.post(CHAT, json=ask("x", "text", stream=True))
    assert answers[0].status_code == 500
    assert '"code":"internal"' in streamed.text.replace(" ", "")
    for answer in [*answers, streamed]:
        assert not LEAKS.search(answer.text), answer.text
        assert answer.status_code >= 400 or answer is streamed
    assert all(answer.status_code in (400, 404) for answer in answers[1:])


def test_h9_garbage_instead_of_http(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    for data in (b"\0\1\2\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/" * 70_000):
        assert not LEAKS.search(raw(client, data, 2.0).decode("latin-1"))
    assert client.get("/healthz").status_code == 200


# H10


def started(tmp_path: Path) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from serve_parts import FakeModel\n"
        "from anyany.serve.app import Server\n"
        "from anyany.serve.run import address, announce, listen, serve\n"
        "opened = listen('127.0.0.1', 0)\n"
        "server = Server(FakeModel(word_seconds=0.2))\n"
        "serve(server, opened, lambda: announce(address(opened)))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().removeprefix("anyany serve: ").strip()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_h10_a_signal_drains(number: signal.Signals, tmp_path: Path) -> None:
    process, url = started(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        body = ask("one two three four five six seven eight", "text")
        asked = [pool.submit(httpx.post, f"{url}{CHAT}", json=body, timeout=30) for _ in range(2)]
        until(lambda: _held(httpx.get(f"{url}/metrics").text) == 2)
        began = time.monotonic()
        process.send_signal(number)
        assert [future.result().status_code for future in asked] == [200, 200]
    assert process.wait(30) == 0
    assert time.monotonic() - began < 30.0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    assert list(tmp_path.iterdir()) == []  # nothing is left
    process.communicate()


def test_h10_two_signals_end_at_once(tmp_path: Path) -> None:
    process, url = started(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = ask("word " * 200, "text")
        asked = pool.submit(httpx.post, f"{url}{CHAT}", json=body, timeout=60)
        until(lambda: _held(httpx.get(f"{url}/metrics").text) == 1)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert time.monotonic() - began < 20.0  # its forty seconds of work are given up
        with contextlib.suppress(httpx.HTTPError):
            asked.result()
    assert "Traceback" not in told


def _held(metrics: str) -> int:
    """Jobs that wait or are at work."""
    return sum(int(n) for n in re.findall(r"^anyany_(?:queue|running) (\d+)$", metrics, re.M))
