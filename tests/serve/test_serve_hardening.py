"""H1 to H5 of the hardening goals: how much, how long, and who leaves."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gc
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_parts import FakeModel, address_of, ask, png, served, until

from anyany.cli import main
from anyany.errors import UsageError
from anyany.serve.app import Server
from anyany.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"
KEY = "a-key-of-16-letters"
MIB = 2**20


@pytest.fixture(scope="module")
def fake() -> Iterator[tuple[httpx.Client, Server]]:
    with served(FakeModel(), body_bytes=10 * MIB, part_bytes=3 * MIB) as found:
        yield found


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
