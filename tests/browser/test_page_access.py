"""The chat page by keyboard, by names for screen readers, in both color schemes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fake_server import FakeServer
from page_steps import ask, last_turn, wait_for_end

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
Opener = Callable[..., "Page"]
FOCUSED = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"


def test_keyboard_only(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("two")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("lines")
    page.keyboard.press("Enter")
    last_turn(page).get_by_role("button", name="Regenerate").wait_for()
    assert fake.requests[-1]["messages"][-1]["content"][0]["text"] == "two\nlines"
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.press("Tab")  # to the boxes of what to answer with
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.type("draw it")
    page.keyboard.press("Enter")
    page.locator(".plate img").wait_for()
    wait_for_end(page)
    assert fake.requests[-1]["modalities"] == ["image"]
    order = []
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.evaluate("document.querySelector('.skip').focus()")
    for _ in range(30):
        order.append(page.evaluate(FOCUSED))
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "message":
            break
    assert order[0] == "Skip to the message box"
    assert order.index("Picture: how it was made") + 1 == order.index("Download image_0.png")
    assert "Regenerate" in order


def test_focus_is_seen_on_everything_that_takes_it(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    ask(page, "draw", outputs=("Image",))
    page.evaluate("document.querySelector('.skip').focus()")
    for _ in range(14):
        seen = page.evaluate(
            """() => {
              const it = document.activeElement;
              if (it.id === "message") return getComputedStyle(it.form).boxShadow !== "none";
              const shown = it.matches(".outputs input") ? it.nextElementSibling : it;
              return it === document.body || getComputedStyle(shown).outlineStyle !== "none";
            }"""
        )
        assert seen, page.evaluate(FOCUSED)
        page.keyboard.press("Tab")


def test_everything_has_a_name_and_replies_are_spoken(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    ask(page, "draw", outputs=("Text", "Image"))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a[href], input, textarea, img, svg[role]")]
          .filter((e) => !e.closest("[aria-hidden=true]"))
          .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() ||
            e.hasAttribute("alt") ||
            e.labels?.length))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    spoken = page.get_by_role("status").inner_text()
    assert spoken == "here is a small red bell on the left. 1 picture ready"
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings == ["draw"]
    assert page.locator(".plate img").get_attribute("alt") == "Picture made for: draw"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_follow_the_system_until_they_are_switched(
    fake: FakeServer, open_page: Opener, scheme: str
) -> None:
    page = open_page(fake.url, color_scheme=scheme)
    shown = "getComputedStyle(document.documentElement).backgroundColor"
    before = page.evaluate(shown)
    page.get_by_label("Dark colors").click()
    switched = page.evaluate(shown)
    assert switched != before
    page.reload()
    assert page.evaluate(shown) == switched  # remembered
    page.get_by_label("Dark colors").click()
    assert page.evaluate(shown) == before
    assert page.evaluate("localStorage.length") == 0  # as the system again: nothing to remember


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(fake: FakeServer, open_page: Opener, scheme: str) -> None:
    page = open_page(fake.url, color_scheme=scheme)
    ask(page, "draw", outputs=("Text", "Image"))
    worst = page.evaluate(
        """() => {
          const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
          const light = (color) => {
            const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = numbers(color).slice(0, 3).map((v) => linear(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (element) => {
            for (let e = element; e; e = e.parentElement) {
              const color = getComputedStyle(e).backgroundColor;
              if ((numbers(color)[3] ?? 1) === 1) return color;
            }
          };
          const kinds = "p, h2, button, span, label, dt, dd, small, legend";
          const texts = [...document.querySelectorAll(kinds)]
            .filter((e) => e.offsetParent && !e.closest(".sr") && e.innerText?.trim());
          const ratios = texts.map((e) => {
            const both = [light(getComputedStyle(e).color), light(ground(e))];
            return [(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), e.innerText];
          });
          return ratios.sort((a, b) => a[0] - b[0])[0];
        }"""
    )
    assert worst[0] >= 4.5, worst  # WCAG 2.2, 1.4.3


def test_a_new_conversation_forgets_the_old_one(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    ask(page, "first")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0
    assert page.get_by_role("heading", name="Ask in words or pictures").is_visible()
    ask(page, "second")
    assert len(fake.requests[-1]["messages"]) == 1


def test_an_example_is_one_click(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    page.get_by_role("button", name="what is this?").click()
    last_turn(page).get_by_role("button", name="Regenerate").wait_for()
    sent = fake.requests[-1]
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["image_url", "text"]
    assert sent["modalities"] == ["text"]


def test_nothing_is_asked_of_another_host(fake: FakeServer, open_page: Opener) -> None:
    page = open_page("about:blank", ready=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(fake.url)
    ask(page, "draw", outputs=("Image",))
    outside = [url for url in asked if not url.startswith((fake.url, "blob:", "data:"))]
    assert outside == []
    assert len(asked) > 10


def test_events_are_read_however_they_are_cut(fake: FakeServer, open_page: Opener) -> None:
    page = open_page(fake.url)
    stream = ': hello\n\ndata: {"a": "ü"}\r\n\r\ndata: one\ndata:two\n\n'
    stream += "event: x\ndata: 3\r\rdata: no end"
    wanted = ['{"a": "ü"}', "one\ntwo", "3"]
    for cut in (1, 2, 3, 7, 1_000):
        read = page.evaluate(
            """async ([text, cut]) => {
              const {events} = await import(new URL("page/sse.js", document.baseURI));
              const bytes = new TextEncoder().encode(text);
              const body = new ReadableStream({start(control) {
                for (let at = 0; at < bytes.length; at += cut) {
                  control.enqueue(bytes.slice(at, at + cut));
                }
                control.close();
              }});
              const found = [];
              for await (const data of events(body)) found.push(data);
              return found;
            }""",
            [stream, cut],
        )
        assert read == wanted, cut
