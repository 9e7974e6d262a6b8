"""The chat page with the real server and pocket, in a real Chromium."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from page_steps import ask, last_turn, picture_pixels, record_of
from PIL import Image

from anyany.media import read_provenance
from anyany.pocket.captions import parse_caption
from anyany.pocket.check import check_image

if TYPE_CHECKING:
    from playwright.sync_api import FilePayload, Page

pytestmark = pytest.mark.browser
Opener = Callable[..., "Page"]
SAMPLES = Path(__file__).parents[2] / "samples" / "images"


def test_words_get_a_picture_with_its_record(real: str, open_page: Opener, tmp_path: Path) -> None:
    page = open_page(real)
    page.get_by_label("Settings").click()
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("checkbox", name="Text").check()
    page.get_by_role("checkbox", name="Image").check()
    turn = ask(page, "draw a large red bell in the center")
    assert "red bell" in turn.locator(".reply-text").inner_text()
    pixels = picture_pixels(turn)
    found = check_image(pixels)
    assert (found.thing, found.color) == ("bell", "red")
    assert record_of(turn)["Seed"] == "7"
    with page.expect_download() as download:
        turn.get_by_label("Download image_0.png").click()
    download.value.save_as(tmp_path / "image_0.png")
    record = read_provenance(tmp_path / "image_0.png")
    assert record is not None
    assert (record.model, record.seed) == ("pocket", 7)
    with Image.open(tmp_path / "image_0.png", formats=("PNG",)) as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), pixels)


def test_a_picture_gets_words(real: str, open_page: Opener) -> None:
    page = open_page(real)
    page.locator("#file").set_input_files(SAMPLES / "bell.png")
    page.get_by_role("checkbox", name="Text").check()
    turn = ask(page, "what is this?")
    said = parse_caption(turn.locator(".reply-text").inner_text())
    assert said is not None
    assert (said.thing, said.color) == ("bell", "yellow")
    assert turn.locator(".plate").count() == 0


def test_three_turns_go_from_picture_to_words_to_picture(real: str, open_page: Opener) -> None:
    page = open_page(real)
    drawn = ask(page, "draw a large blue drum in the center", outputs=("Image",))
    assert check_image(picture_pixels(drawn)).thing == "drum"
    told = ask(page, "what color is it?", outputs=("Text",))
    assert "blue" in told.locator(".reply-text").inner_text()
    changed = ask(page, "now make it red", outputs=("Image",))
    found = check_image(picture_pixels(changed))
    assert (found.thing, found.color) == ("drum", "red")
    assert page.locator(".turn").count() == 3
    assert last_turn(page).locator("h2").inner_text() == "now make it red"


def test_a_picture_that_is_cut_off_is_refused_kindly(real: str, open_page: Opener) -> None:
    page = open_page(real, allow=("the server responded with a status of 400",))
    broken = io.BytesIO()
    Image.new("RGB", (64, 64)).save(broken, format="PNG")
    file: FilePayload = {
        "name": "cut.png",
        "mimeType": "image/png",
        "buffer": broken.getvalue()[:60],
    }
    page.locator("#file").set_input_files(file)
    turn = ask(page, "what is this?")
    trouble = turn.get_by_role("alert")
    assert "The server could not take that." in trouble.inner_text()
    assert trouble.get_by_role("button", name="Try again").is_visible()
    assert "/" not in trouble.inner_text()  # no path of the server's
