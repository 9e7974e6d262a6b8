"""What people do on the chat page, and what they see there."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

_BYTES_OF_PICTURE = """async (image) => {
  const blob = await new Promise((resolve) => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    canvas.toBlob(resolve, "image/png");
  });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(String.fromCharCode(...bytes));
}"""


def say(page: Page, text: str) -> Locator:
    """Write and press Enter; the new turn, while its reply is on the way."""
    turns = page.locator(".turn").count()
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")
    page.locator(".turn").nth(turns).wait_for()
    return page.locator(".turn").nth(turns)


def ask(page: Page, text: str, outputs: tuple[str, ...] | None = None) -> Locator:
    """Write, send and wait for the end of the reply.

    Args:
        page: the chat page.
        text: the words.
        outputs: what to answer with, as the boxes are named; None leaves them.
    """
    if outputs is not None:
        page.get_by_role("checkbox", name="What the model decides").check()
        for name in outputs:
            page.get_by_role("checkbox", name=name).check()
    turn = say(page, text)
    wait_for_end(page)
    return turn


def wait_for_end(page: Page) -> None:
    """Until nothing is on the way."""
    page.locator("#stop").wait_for(state="hidden")


def last_turn(page: Page) -> Locator:
    """The turn at the end."""
    return page.locator(".turn").last


def picture_pixels(turn: Locator) -> npt.NDArray[np.uint8]:
    """The picture of a reply as the browser decoded it: uint8 [H, W, 3]."""
    picture = turn.locator(".plate img")
    picture.wait_for()
    picture.evaluate("(image) => image.decode()")
    data = base64.b64decode(picture.evaluate(_BYTES_OF_PICTURE))
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGB"))


def record_of(turn: Locator) -> dict[str, str]:
    """Open the first plate's record; its rows."""
    turn.get_by_label("how it was made").first.click()
    names = turn.locator(".facts dt").all_inner_texts()
    values = turn.locator(".facts dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


def overflow(page: Page) -> dict[str, Any]:
    """How much wider than the window the page is, in pixels, and the widest elements."""
    result: dict[str, Any] = page.evaluate(
        """() => ({
          wider: document.documentElement.scrollWidth - window.innerWidth,
          by: [...document.querySelectorAll("body *")]
            .filter((e) => e.getBoundingClientRect().right > window.innerWidth + 0.5)
            .filter((e) => !e.closest(".sr, .sprite"))
            .map((e) => e.className || e.id),
        })"""
    )
    return result
