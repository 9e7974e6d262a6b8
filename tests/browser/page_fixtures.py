"""Chromium, the servers, and pages that fail a test which leaves an error in the console."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from fake_server import FakeModel, FakeServer

import anyany
from anyany.media import write_audio, write_image, write_video
from anyany.pocket.render import render_image
from anyany.pocket.world import Scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

PAGE: Final = Path(anyany.__file__).parent / "serve" / "page"
PATIENCE: Final = 60_000  # ms, of every wait
ROOT: Final = Path(anyany.__file__).parents[1]
CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
START_SECONDS: Final = 200  # until the real server answers: a few, but for a machine full of work


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    chromium = shutil.which("chromium") or CHROMIUM
    if not Path(chromium).exists() and not os.environ.get("CI"):
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: .[dev]")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium, headless=True, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="session")
def media_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture, a clip and a sound."""
    folder = tmp_path_factory.mktemp("media")
    pictures = [
        render_image(Scene("bell", "red", "small", place, "pink"))
        for place in ("left", "center", "right")
    ]
    seconds = np.arange(16_000, dtype=np.float32) / 16_000
    tone = 0.6 * np.exp(-4 * seconds) * np.sin(2 * np.pi * 440 * seconds)
    frames = np.stack([np.asarray(picture) for picture in pictures])
    return {
        "image": write_image(pictures[0], folder / "bell.png"),
        "video": write_video(frames, 8, folder / "bell.mp4"),
        "audio": write_audio(tone[np.newaxis].astype(np.float32), 16_000, folder / "bell.wav"),
    }


@pytest.fixture
def fake(media_files: dict[str, Path]) -> Iterator[FakeServer]:
    """A scripted server that serves something like pocket."""
    model = FakeModel(media={name: path.read_bytes() for name, path in media_files.items()})
    server = FakeServer(PAGE, model)
    yield server
    server.close()


@pytest.fixture(scope="session")
def real() -> Iterator[str]:
    """The address of `anyany serve` with pocket, in a process of its own."""
    command = [sys.executable, "-m", "anyany", "serve", "--port", "0", "--threads", "1"]
    command += ["--drain", "5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        yield _address(process)
    finally:
        process.terminate()
        process.wait(timeout=60)
        assert process.stdout is not None
        process.stdout.close()


def _address(process: subprocess.Popen[bytes]) -> str:
    """What the server prints once it answers."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if ready.select(timeout=1):
                line = process.stdout.readline().decode()
                assert line.startswith("anyany serve: http://"), line
                return line.split(": ", 1)[1].strip().rstrip("/") + "/"
    raise AssertionError(f"the server did not start within {START_SECONDS} s")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page; at the end, no page may have left an error in its console.

    The opener's `allow` names what Chromium itself logs of a response that a test provokes: no page
    can keep it from doing so.
    """
    contexts: list[Any] = []
    errors: list[str] = []
    allowed: list[str] = []

    def collect(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(a in message.text for a in allowed):
            errors.append(message.text)

    def opener(url: str, *, ready: bool = True, allow: tuple[str, ...] = (), **traits: Any) -> Page:
        allowed.extend(allow)
        context = browser.new_context(**traits)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", collect)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        if ready:  # the page knows what the server serves
            page.locator("#model").wait_for()
        return page

    yield opener
    for context in contexts:
        context.close()
    assert errors == []
