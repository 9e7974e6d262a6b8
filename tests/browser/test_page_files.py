"""The chat page's files: what they must not hold, and pictures that are what they show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

import numpy as np
import pytest
from page_pictures import FOLDER, page_pictures
from PIL import Image

PAGE: Final = FOLDER.parent
TEXTS: Final = sorted(path for path in PAGE.iterdir() if path.is_file())


class _Markup(HTMLParser):
    """Collects what a strict Content-Security-Policy would refuse, and what is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.refused.append(f"{tag} {name}")
            if name in ("src", "href") and value and not value.startswith("#"):
                self.linked.append(value)
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.refused.append(tag)


def markup() -> _Markup:
    """index.html, read."""
    parser = _Markup()
    parser.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    return parser


def test_nothing_in_the_markup_needs_a_laxer_policy() -> None:
    assert markup().refused == []


def test_every_file_that_is_linked_or_imported_exists() -> None:
    linked = [link.removeprefix("page/") for link in markup().linked]
    assert len(linked) >= 6
    for path in TEXTS:
        if path.suffix == ".js":
            linked += re.findall(r'from "\./([\w-]+\.js)"', path.read_text(encoding="utf-8"))
    assert [name for name in linked if not (PAGE / name).is_file()] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_file_asks_another_host_or_runs_text_as_code(path: object) -> None:
    text = (PAGE / str(path)).read_text(encoding="utf-8")
    urls = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org", "https://html.spec"}
    assert {url for url in urls if not url.startswith("https://html.spec.whatwg.org")} == set()
    assert (
        re.findall(r"\beval\(|new Function|innerHTML|document\.write|insertAdjacentHTML", text)
        == []
    )
    assert text.count("\n") <= 320


def test_every_id_that_the_modules_use_is_in_the_markup() -> None:
    ids = set(re.findall(r'\bid="([\w-]+)"', (PAGE / "index.html").read_text(encoding="utf-8")))
    for path in TEXTS:
        if path.suffix == ".js":
            text = path.read_text(encoding="utf-8")
            used = set(re.findall(r'byId\("([\w-]+)"\)', text))
            used |= {f"i-{name}" for name in re.findall(r'\bicon(?:Button)?\("([\w-]+)"', text)}
            assert used <= ids, path.name


def test_the_example_pictures_are_the_renderers() -> None:
    drawn = page_pictures()
    assert {path.stem for path in FOLDER.iterdir()} == set(drawn)
    for name, picture in drawn.items():
        with Image.open(FOLDER / f"{name}.png", formats=("PNG",)) as stored:
            assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(picture)), name
