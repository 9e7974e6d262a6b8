"""The chat page in the states that only a scripted server reaches: slow, stopped, broken, keyed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_server import KEY, FakeServer
from page_steps import ask, last_turn, overflow, record_of, say, wait_for_end

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Page

pytestmark = pytest.mark.browser
Opener = Callable[..., "Page"]
PLAYABLE = """(medium) => medium.readyState >= 2 ||
  new Promise((resolve) => medium.addEventListener("loadeddata", () => resolve(true)))"""


def test_stop_keeps_what_came_and_the_server_learns_of_it(
    fake: FakeServer, open_page: Opener
) -> None:
    page = open_page(fake.url)
    turn = say(page, "a slow one")
    turn.locator(".reply-text", has_text="here is").wait_for()
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page)
    assert turn.locator(".reply-status").inner_text() == "Stopped here."
    assert turn.locator(".reply-text").inner_text().startswith("here is")
    assert fake.left.wait(timeout=5)
    assert ask(page, "go on").locator(".reply-text").inner_text().endswith("left.")
    said = [message["role"] for message in fake.requests[-1]["messages"]]
    assert said == ["user", "assistant", "user"]  # what came before the stop is told


def test_progress_shows_its_steps_and_escape_stops(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    page.get_by_role("checkbox", name="Image").check()
    turn = say(page, "a slow picture")
    turn.get_by_text("Drawing, step 2 of 40").wait_for()
    assert int(turn.get_by_role("progressbar").get_attribute("max") or 0) == 40
    page.keyboard.press("Escape")
    wait_for_end(page)
    assert turn.locator(".plate").count() == 0
    assert turn.locator(".reply-status").inner_text() == "Stopped before anything came."
    assert fake.left.wait(timeout=5)


def test_a_reply_without_the_oldest_turns_says_so(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    assert "too long" not in ask(page, "hello").locator(".reply-foot").inner_text()
    turn = ask(page, "a long story")
    turn.get_by_text("too long: made without the oldest 2 turns").wait_for()


def test_regenerate_keeps_both_versions_and_draws_a_new_seed(
    fake: FakeServer, open_page: Opener
) -> None:
    page = open_page(fake.url)
    turn = ask(page, "draw a bell", outputs=("Text", "Image"))
    turn.get_by_label("Keep seed").click()
    assert page.get_by_role("button", name="Forget seed 1001").is_visible()
    ask(page, "another", outputs=("Image",))
    assert fake.requests[-1]["seed"] == 1001
    last_turn(page).get_by_role("button", name="Regenerate").click()
    wait_for_end(page)
    assert "seed" not in fake.requests[-1]
    assert fake.requests[-1]["messages"] == fake.requests[-2]["messages"]
    assert last_turn(page).get_by_text("2 of 2").is_visible()
    last_turn(page).get_by_label("Earlier version").click()
    assert last_turn(page).get_by_label("Keep seed 1001").is_visible()


@pytest.mark.parametrize(
    ("prompt", "title", "advice", "logged"),
    [
        ("busy", "Many people are asking at once.", "try again in 3 seconds", "429"),
        ("refuse", "The server could not take that.", "Expected a picture of a bell", "400"),
        ("break", "The connection broke off.", "What had come so far is kept.", None),
        ("fault", "The reply could not be finished.", "The decoder gave up.", None),
    ],
)
def test_errors_are_shown_kindly_with_what_to_do(
    fake: FakeServer, open_page: Opener, prompt: str, title: str, advice: str, logged: str | None
) -> None:
    page = open_page(fake.url, allow=(f"with a status of {logged}",) if logged else ())
    alert = ask(page, prompt).get_by_role("alert")
    assert title in alert.inner_text()
    assert advice in alert.inner_text()
    alert.get_by_role("button", name="Try again").click()
    wait_for_end(page)
    assert len(fake.requests) == 2
    assert page.locator(".turn").count() == 1
    answered = ask(page, "and now something that works")
    assert "left." in answered.locator(".reply-text").inner_text()


def test_a_server_that_went_away(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url, allow=("net::ERR_CONNECTION_REFUSED",))
    fake.close()
    alert = ask(page, "are you there?").get_by_role("alert")
    assert "The server did not answer." in alert.inner_text()
    assert "anyany serve" in alert.inner_text()


def test_a_server_with_a_key_asks_for_it(fake: FakeServer, open_page: Opener) -> None:
    fake.locked = True
    page = open_page(fake.url, ready=False, allow=("with a status of 401",))
    page.get_by_text("This server asks for an API key.").wait_for()
    assert page.locator("#key").evaluate("(field) => field === document.activeElement")
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")  # tries again by itself
    page.get_by_role("checkbox", name="Text").wait_for()
    assert page.locator("#notice").is_hidden()
    assert "left." in ask(page, "hello").locator(".reply-text").inner_text()


def test_clips_and_sounds_come_and_go(
    fake: FakeServer, open_page: Opener, media_files: dict[str, Path]
) -> None:
    fake.model.name = "four"
    fake.model.input = fake.model.output = ("text", "image", "video", "audio")
    page = open_page(fake.url)
    page.locator("#file").set_input_files([media_files["video"], media_files["audio"]])
    turn = ask(page, "all of it", outputs=("Text", "Image", "Video", "Audio"))
    kinds = [part["type"] for part in fake.requests[-1]["messages"][0]["content"]]
    assert kinds == ["video_url", "input_audio", "text"]
    shown = turn.locator(".parts > *").evaluate_all("(all) => all.map((e) => e.className)")
    assert shown == ["reply-text", "plate image", "plate video", "plate audio"]
    for kind in ("video", "audio"):
        assert turn.locator(f".plate {kind}").evaluate(PLAYABLE)
    assert record_of(turn)["Scheduler"] == "ddim"
    ask(page, "go on")  # the reply goes back as it came
    kinds = [part["type"] for part in fake.requests[-1]["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "video_url", "input_audio"]


def test_the_microphone_makes_a_wav_file(fake: FakeServer, open_page: Opener) -> None:
    fake.model.input = ("text", "audio")
    page = open_page(fake.url)
    page.get_by_label("Record from the microphone").click()
    page.locator("#recording-time", has_text=re.compile("0:0[1-9]")).wait_for()
    page.get_by_role("button", name="Keep").click()
    page.get_by_label("Remove recording_1.wav").wait_for()
    ask(page, "what was that?")
    part = fake.requests[-1]["messages"][0]["content"][0]
    assert part["input_audio"]["format"] == "wav"
    assert part["input_audio"]["data"].startswith("UklGR")  # "RIFF"
    assert len(part["input_audio"]["data"]) > 40_000  # a second at 16 kHz, 16 bits


def test_files_that_cannot_be_taken_are_named(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    files = [("notes.txt", "text/plain", 5), ("song.wav", "audio/wav", 5)]
    files += [("empty.png", "image/png", 0), ("large.png", "image/png", 100_001)]
    payloads: list[FilePayload] = [
        {"name": name, "mimeType": kind, "buffer": b"x" * size} for name, kind, size in files
    ]
    page.locator("#file").set_input_files(payloads)
    said = page.locator("#composer-error").inner_text()
    assert all(name in said for name, _, _ in files)
    assert page.locator("#attached li").count() == 0


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(
    fake: FakeServer, open_page: Opener, media_files: dict[str, Path], how: str
) -> None:
    page = open_page(fake.url)
    carried = page.evaluate_handle(
        """(bytes) => {
          const carried = new DataTransfer();
          carried.items.add(new File([new Uint8Array(bytes)], "bell.png", {type: "image/png"}));
          return carried;
        }""",
        list(media_files["image"].read_bytes()),
    )
    if how == "drop":
        page.dispatch_event("body", "dragenter", {"dataTransfer": carried})
        assert page.get_by_text("Drop to add").is_visible()
        page.dispatch_event("body", "drop", {"dataTransfer": carried})
        assert page.get_by_text("Drop to add").is_hidden()
    else:
        page.evaluate(
            """(carried) => document.querySelector("#message").dispatchEvent(
              new ClipboardEvent("paste", {clipboardData: carried, cancelable: true}))""",
            carried,
        )
    page.get_by_label("Remove bell.png").wait_for()
    ask(page, "what is this?")
    part = fake.requests[-1]["messages"][0]["content"][0]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")


def test_at_a_phones_width_nothing_scrolls_sideways(
    fake: FakeServer, open_page: Opener, media_files: dict[str, Path]
) -> None:
    fake.model.input = fake.model.output = ("text", "image", "video", "audio")
    fake.model.name = "a-system-with-a-name-that-is-much-too-long-for-a-phone"
    page = open_page(fake.url, viewport={"width": 360, "height": 740})
    page.locator("#file").set_input_files([media_files["image"], media_files["audio"]])
    every = ("Text", "Image", "Video", "Audio")
    turn = ask(page, "a" * 200, outputs=every)
    record_of(turn)
    page.get_by_label("Settings").click()
    page.get_by_label("Seed", exact=True).fill("9007199254740991")
    assert overflow(page) == {"wider": 0, "by": []}
    for name in ("Add files", "Settings", "Send"):
        box = page.get_by_role("button", name=name).first.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8
