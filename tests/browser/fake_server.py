"""A server with the shapes of `anyany serve` and scripted answers: what the real one cannot be made
to do on demand (a slow reply, a broken connection, clips and sounds), told by a word of the prompt.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

PAGE_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
MIMES: Final = {"image": "image/png", "video": "video/mp4", "audio": "audio/wav"}
ENDINGS: Final = {"image": "png", "video": "mp4", "audio": "wav"}
KEY: Final = "open-sesame"
WORDS: Final = ("here ", "is ", "a ", "small ", "red ", "bell ", "on ", "the ", "left.")
Event = dict[str, Any]


@dataclass
class FakeModel:
    """What the server says of its model, and the media that it answers with.

    Args:
        name: the model's.
        input: the modalities that it takes.
        output: the modalities that it makes.
        media: the bytes of a file for each modality.
        card: text about it.
    """

    name: str = "pocket"
    input: tuple[str, ...] = ("text", "image")
    output: tuple[str, ...] = ("text", "image")
    media: dict[str, bytes] = field(default_factory=dict)
    card: str = "A very small model.\nIt says nothing about real photographs."

    def told(self) -> Event:
        """As an entry of GET /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "modalities": {"input": list(self.input), "output": list(self.output)},
            "decoders": {
                name: {"num_inference_steps": 8, "guidance_scale": 3.0}
                for name in self.output
                if name != "text"
            },
            "card": self.card,
            "limits": {"part_bytes": 100_000, "parts": 3, "messages": 64, "audio_seconds": 600.0},
        }


class FakeServer:
    """Serves the page, and remembers what it was asked.

    Args:
        page: the folder of the page.
        model: what it serves; may be replaced while it runs.
    """

    def __init__(self, page: Path, model: FakeModel) -> None:
        self.page = page
        self.model = model
        self.locked = False  # whether a key is needed
        self.requests: list[Event] = []
        self.left = threading.Event()  # a client went away before the end
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/"

    def close(self) -> None:
        """End it."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v1/models":
            if self._refused():
                return
            self._json(200, {"object": "list", "data": [self.fake.model.told()]})
            return
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        found = self.fake.page / name
        if not found.is_file():
            self._json(404, {"error": {"message": "no such page"}})
            return
        self._send(
            200, TYPES[found.suffix], found.read_bytes(), {"Content-Security-Policy": PAGE_CSP}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        self.fake.requests.append(body)
        asked = last_text(body)
        if "busy" in asked:
            error = {"message": "the queue is full", "code": "queue_full"}
            self._json(429, {"error": error}, {"Retry-After": "3"})
        elif "refuse" in asked:
            self._json(400, {"error": {"message": "expected a picture of a bell; got a drum"}})
        else:
            self._stream(answer(self.fake.model, body, asked))

    def _refused(self) -> bool:
        if not self.fake.locked or self.headers["Authorization"] == f"Bearer {KEY}":
            return False
        self._json(401, {"error": {"message": "no key", "code": "invalid_api_key"}})
        return True

    def _stream(self, chunks: Iterator[Event]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for chunk in chunks:
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                if chunk.get("event", {}).get("type") == "finish" or "error" in chunk:
                    self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.fake.left.set()

    def _json(self, status: int, value: Event, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(value).encode(), headers or {})

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        sizes = {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in {**sizes, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def last_text(body: Event) -> str:
    """What was asked last."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def answer(model: FakeModel, body: Event, asked: str) -> Iterator[Event]:
    """The chunks of a reply: what was asked for, at the pace that the prompt says."""
    pause = 0.15 if "slow" in asked else 0.002
    steps = 40 if "slow" in asked else 8
    seed = body.get("seed", 1_000 + len(body["messages"]))
    for position in (3, 2, 1) if "queue" in asked else ():
        yield {"event": {"type": "queued", "position": position}}
        time.sleep(2 * pause)
    outputs = body.get("modalities") or ["text"]
    yield {"event": {"type": "start", "seed": seed}, "choices": [{"delta": {"role": "assistant"}}]}
    if "text" in outputs:
        for word in WORDS:
            yield _chunk({"type": "text", "index": 0, "text": word}, {"content": word})
            time.sleep(pause)
    if "break" in asked:
        return
    if "fault" in asked:
        yield {"error": {"message": "the decoder gave up", "code": "server_error"}}
        return
    for index, modality in enumerate((name for name in outputs if name != "text"), start=1):
        place = {"index": index, "modality": modality}
        yield _chunk({"type": "part_start", **place, "modality_index": 0})
        for step in range(1, steps + 1):
            yield _chunk({"type": "progress", **place, "step": step, "total": steps})
            time.sleep(pause)
        part = _part(model, place, seed, asked)
        yield _chunk({"type": "part", **place}, {f"{modality}s": [part]})
    done: Event = {"type": "finish", "seed": seed, "timings": {"total": 1.84}, "usage": {}}
    done["dropped_turns"] = 2 if "long" in asked else 0
    yield _chunk(done, finish="stop")


def _chunk(event: Event, delta: Event | None = None, finish: str | None = None) -> Event:
    return {"event": event, "choices": [{"delta": delta or {}, "finish_reason": finish}]}


def _part(model: FakeModel, place: Event, seed: int, asked: str) -> Event:
    modality = place["modality"]
    data = model.media[modality]
    url = f"data:{MIMES[modality]};base64,{base64.b64encode(data).decode()}"
    sha256 = hashlib.sha256(data).hexdigest()
    kinds = {
        "image": {"type": "image_url", "image_url": {"url": url}, "width": 64, "height": 64},
        "video": {
            **{"type": "video_url", "video_url": {"url": url}, "width": 64, "height": 64},
            **{"frames": 8, "frames_per_second": 8},
        },
        "audio": {"type": "input_audio", "audio_url": {"url": url}, "seconds": 2.0}
        | {"input_audio": {"data": url.partition(",")[2], "format": "wav"}, "sample_rate": 16_000},
    }
    record = {
        **{"model": model.name, "model_sha256": sha256, "seed": seed, "prompt": asked},
        **{"settings": {"num_inference_steps": 8, "guidance_scale": 3.0, "scheduler": "ddim"}},
        **{"inputs": [], "versions": {"anyany": "0.1.0"}},
    }
    facts = {"mime_type": MIMES[modality], "filename": f"{modality}_0.{ENDINGS[modality]}"}
    told = {**place, "modality_index": 0, "seed": seed, "sha256": sha256, "provenance": record}
    return {**kinds[modality], **facts, **told}
