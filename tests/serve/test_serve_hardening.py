"""H1 to H10 of the hardening goals: who may ask, how much, how long, and what is never told."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_parts import FakeModel, ask, png, served, until

from anyany.cli import main
from anyany.errors import UsageError
from anyany.serve.app import Server
from anyany.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"
KEY = "a-key-of-16-letters"
LEAKS = re.compile(r"0x[0-9a-f]{6,}|/home|/tmp|/root|/work|Traceback|site-packages|File \"")
MIB = 2**20


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[httpx.Client, Server]]:
    with served(FakeModel(), body_bytes=10 * MIB, part_bytes=3 * MIB) as found:
        yield found


def address_of(client: httpx.Client) -> tuple[str, int]:
    url = client.base_url
    assert url.port is not None
    return url.host, url.port


def raw(client: httpx.Client, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes, and read until the server closes or falls silent."""
    with socket.create_connection(address_of(client), timeout=seconds) as link:
        link.sendall(data)
        found = b""
        try:
            while piece := link.recv(65_536):
                found += piece
        except TimeoutError:
            pass
    return found


# H1


def test_h1_others_need_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert ServeSettings().host == "127.0.0.1"
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(UsageError, match="needs a key"):
            ServeSettings(host=host)
        assert ServeSettings(host=host, api_keys=(KEY,)).api_keys
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"):
        assert ServeSettings(host=host).is_local
    with pytest.raises(UsageError, match="16 or more"):
        ServeSettings(api_keys=("short",))
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "ANYANY_API_KEY" in capsys.readouterr().err


# H2


def resident(pid: int | str = "self") -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("form", ["length", "chunked", "base64", "part"])
def test_h2_too_much_is_refused_while_it_comes(
    fake: tuple[httpx.Client, Server], form: str
) -> None:
    client, _ = fake
    size = 5 * MIB if form == "part" else 11 * MIB
    text = base64.b64encode(b"\0" * (size * 3 // 4)).decode()
    url = {"url": f"data:image/png;base64,{text}"}
    content: Any = json.dumps(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}
    ).encode()
    if form == "chunked":
        pieces = [content[i : i + 65_536] for i in range(0, len(content), 65_536)]
        content = iter(pieces)
    gc.collect()
    before = resident()
    try:
        response = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    except httpx.TransportError:
        assert form in ("length", "chunked", "base64")  # the answer came before the end
    else:
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"
    gc.collect()
    assert resident() - before < 50 * MIB
    assert client.get("/healthz").status_code == 200


def test_h2_a_form_of_too_many_parts(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    edge = "x" * 20
    parts = "".join(
        f'--{edge}\r\nContent-Disposition: form-data; name="f{i}"\r\n\r\nx\r\n' for i in range(2000)
    )
    response = client.post(
        "/v1/images/edits",
        content=f"{parts}--{edge}--\r\n".encode(),
        headers={"content-type": f"multipart/form-data; boundary={edge}"},
    )
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "the form is malformed"


def test_h2_bombs_are_refused_by_their_size(fake: tuple[httpx.Client, Server]) -> None:
    client, _ = fake
    huge = png(20_000, 2_000)
    url = {"url": f"data:image/png;base64,{base64.b64encode(huge).decode()}"}
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}
    response = client.post(CHAT, json=body)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "media_too_large"


def test_h2_all_bodies_together_have_a_limit() -> None:
    with served(FakeModel(), body_bytes=2 * MIB, bodies_bytes=3 * MIB) as (client, server):
        links = [socket.create_connection(address_of(client)) for _ in range(3)]
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for link in links:
            link.sendall(f"{head}Content-Length: {2 * MIB}\r\n\r\n".encode() + b" " * (2 * MIB - 9))
        until(lambda: "bodies" in server.service.metrics.text().partition("rejected")[2])
        for link in links:
            link.close()
        until(lambda: "anyany_body_bytes 0\n" in client.get("/metrics").text)


# H3


def test_h3_a_full_queue_says_when_to_come_again() -> None:
    model = FakeModel(word_seconds=0.02)
    slow: list[float] = []
    with served(model, queue=32) as (client, _):

        def one(number: int) -> tuple[int, str | None]:
            response = httpx.post(
                f"{client.base_url}{CHAT}", json=ask(f"n {number}", "text"), timeout=60
            )
            return response.status_code, response.headers.get("retry-after")

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            waiting = [pool.submit(one, number) for number in range(200)]
            while not all(future.done() for future in waiting):
                began = time.monotonic()
                assert client.get("/healthz").status_code == 200
                slow.append(time.monotonic() - began)
                time.sleep(0.02)
        found = [future.result() for future in waiting]
    statuses = {status for status, _ in found}
    assert statuses == {200, 429}
    assert all(after and 1 <= int(after) <= 60 for status, after in found if status == 429)
    assert sorted(slow)[len(slow) // 2] < 0.5  # 200 clients' threads share this process


# H4


def test_h4_who_leaves_takes_the_work_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = FakeModel(step_seconds=0.01)
    body = ask("long", "image", num_inference_steps=200)
    with served(model, together=2) as (client, server):
        scheduler = server.service.scheduler
        for number in range(50):
            stream = number % 2 == 0
            data = json.dumps({**body, "stream": stream}).encode()
            link = socket.create_connection(address_of(client))
            link.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(data)}\r\n\r\n".encode()
                + data
            )
            if number < 4:
                until(lambda: scheduler.running > 0)
            link.close()
        began = time.monotonic()
        until(lambda: scheduler.running == 0 and scheduler.depth == 0)
        assert time.monotonic() - began < 10.0
        model.cancelled.clear()
        with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
            lines = response.iter_lines()  # held: it closes the connection when it goes
            next(lines)
            until(lambda: scheduler.running == 1)
        began = time.monotonic()
        until(lambda: scheduler.running == 0)
        assert time.monotonic() - began < 2.0
        assert "long" in model.cancelled
        until(lambda: "anyany_body_bytes 0\n" in client.get("/metrics").text)
        assert os.listdir(tmp_path) == [server.store.root.name]
        assert os.listdir(server.store.root) == ["files"]


# H5


def test_h5_a_request_has_its_time() -> None:
    assert ServeSettings().seconds == 60.0
    model = FakeModel(step_seconds=0.05)
    with served(model, seconds=1.0) as (client, _):
        began = time.monotonic()
        response = client.post(CHAT, json=ask("long", "image", num_inference_steps=200))
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline"
        assert time.monotonic() - began < 5.0
        body = ask("long", "image", num_inference_steps=200, stream=True)
        with client.stream("POST", CHAT, json=body) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert json.loads(lines[-2][6:])["error"]["code"] == "deadline"
        assert lines[-1] == "data: [DONE]"
        until(lambda: len(model.cancelled) == 2)


def test_h5_slow_heads_and_bodies_are_cut_and_block_nobody() -> None:
    with served(FakeModel(), header_seconds=1.0, body_seconds=1.0) as (client, _):
        links = [socket.create_connection(address_of(client)) for _ in range(50)]
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for number, link in enumerate(links):
            link.settimeout(10)
            whole = f"{head}Content-Length: 100\r\n\r\n{{"
            link.sendall((whole if number % 2 else head).encode())
        began = time.monotonic()
        assert client.post(CHAT, json=ask("quick", "text")).status_code == 200
        assert time.monotonic() - began < 5.0
        for number, link in enumerate(links):
            answer = link.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 408") if number % 2 else answer == b""
            link.close()
        until(lambda: "anyany_body_bytes 0\n" in client.get("/metrics").text)


def test_h5_there_are_not_more_connections_than_allowed() -> None:
    with served(FakeModel(), connections=20) as (client, _):
        assert client.get("/healthz").status_code == 200
        links = [socket.create_connection(address_of(client)) for _ in range(40)]
        time.sleep(0.5)
        for link in links:
            link.settimeout(0.01)
        closed = 0
        for link in links:
            with contextlib.suppress(TimeoutError):
                closed += link.recv(1) == b""
            link.close()
        assert closed >= 20


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


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_h10_a_signal_drains(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from serve_parts import FakeModel\n"
        "from anyany.serve.app import Server\n"
        "from anyany.serve.run import address, announce, listen, serve\n"
        "opened = listen('127.0.0.1', 0)\n"
        "server = Server(FakeModel(word_seconds=0.2))\n"
        "serve(server, opened, lambda: announce(address(opened)))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.removeprefix("anyany serve: ").strip()
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
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()


def _held(metrics: str) -> int:
    """Jobs that wait or are at work."""
    return sum(int(n) for n in re.findall(r"^anyany_(?:queue|running) (\d+)$", metrics, re.M))
