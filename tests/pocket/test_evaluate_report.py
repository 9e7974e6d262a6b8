"""The table of figures and the HTML page, from results made by hand."""

from __future__ import annotations

import copy
import html.parser
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyany.errors import UsageError
from anyany.pocket.evaluate import Evaluation
from anyany.pocket.evaluate_scores import Item, Row, compare_ratio, summarize
from anyany.pocket.figures import BEGIN, END, figures_markdown, update_readme
from anyany.pocket.report import SHOWN, report_html
from anyany.pocket.world import Scene

EVIL = "<script>alert('x')</script> & \"quotes\" http://example.org"


def _evaluation() -> Evaluation:
    truth = Scene("bell", "red", "small", "left", "white")
    wrong = truth.changed("color", "blue")
    picture = Image.new("RGB", (64, 64), "red")
    direct = [
        Item(truth, truth if i % 4 else wrong, ("bell", "red"), "canonical", EVIL, made=picture)
        for i in range(40)
    ]
    chain = [
        Item(truth, truth if i % 2 else wrong, ("bell", "red"), EVIL, EVIL, EVIL, picture, picture)
        for i in range(40)
    ]
    rows = {
        "direct": Row("direct", "direct " + EVIL, tuple(direct), 1.0, "note"),
        "chain": Row("chain", "chain", tuple(chain), 1.0, EVIL, {"words": 0.25}),
    }
    results: dict[str, Any] = {
        "model": {"name": EVIL, "sha256": "0123456789abcdef" * 4},
        "config": {
            "num_items": 40,
            "seed": 7,
            "split": "held-out",
            "strict": False,
            "rows": list(rows),
        },
        "presets": {},
        "engine": {"device": "cpu", "dtype": "float32"},
        "machine": {},
        "versions": {"torch": "2.13"},
        "rows": {name: summarize(row) for name, row in rows.items()},
        "comparisons": {"chain / direct": compare_ratio(chain, direct)},
    }
    return Evaluation(results, rows)


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_escapes_all_text_and_refers_to_nothing_outside() -> None:
    text = report_html(_evaluation())
    page = _Page()
    page.feed(text)
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "form", "object"} & set(tags)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert tag == "img"
                assert value is not None
                assert value.startswith("data:image/png;base64,")
    assert "<script" not in text
    assert "alert('x')" in page.text  # shown as the text that it is
    policy = next(a for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert not re.search(r"(src|href|url)\s*[=(]\s*['\"]?https?:", text)


def test_the_page_shows_the_first_items_with_marks_and_confusions() -> None:
    evaluation = _evaluation()
    page = _Page()
    page.feed(report_html(evaluation))
    items = [
        a
        for tag, a in page.tags
        if tag == "div" and (a.get("class") or "").startswith("item") and a.get("class") != "items"
    ]
    assert len(items) == 2 * SHOWN
    right = sum(a["class"] == "item right" for a in items)
    first = [row.items[:SHOWN] for row in evaluation.rows.values()]
    assert right == sum(item.all_right for shown in first for item in shown)
    assert "color: blue, not red" in page.text
    assert "red bell" in page.text
    images = sum(tag == "img" for tag, _ in page.tags)
    assert images == SHOWN + 2 * SHOWN


def test_the_table_says_what_was_measured_and_what_was_not() -> None:
    evaluation = _evaluation()
    text = figures_markdown(evaluation.results)
    ratio = next(line for line in text.splitlines() if "as a ratio to that ceiling" in line)
    assert "| 0.667 |" in ratio  # 20 of 40 over 30 of 40
    assert "50.0% / 75.0%" in ratio
    direct = next(line for line in text.splitlines() if "(the ceiling)" in line)
    assert "| 95.0% / 75.0% |" in direct
    assert "red bell 75.0%" in direct
    unmeasured = [line for line in text.splitlines() if "| not measured |" in line]
    assert len(unmeasured) == 6
    assert "n = 40 a row, seed 7" in text
    assert "`0123456789ab`" in text


def test_a_strict_evaluation_says_so() -> None:
    results = copy.deepcopy(dict(_evaluation().results))
    assert "held out, too" not in figures_markdown(results)
    results["config"]["strict"] = True
    assert "whose captions were held out, too" in figures_markdown(results)


def test_an_undefined_ratio_is_said_to_be_so() -> None:
    results = copy.deepcopy(dict(_evaluation().results))
    results["comparisons"]["chain / direct"].update(value=None, interval=None)
    assert "| undefined |" in figures_markdown(results)
    report_html(Evaluation(results, _evaluation().rows))


def test_the_readme_gets_the_table_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    results = _evaluation().results
    update_readme(readme, results)
    once = readme.read_text(encoding="utf-8")
    assert once == f"before\n{BEGIN}\n{figures_markdown(results)}\n{END}\nafter\n"
    update_readme(readme, results)
    assert readme.read_text(encoding="utf-8") == once


@pytest.mark.parametrize(
    "text", ["none", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}", f"{BEGIN}{END}{END}"]
)
def test_a_readme_without_one_pair_of_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected the markers"):
        update_readme(readme, _evaluation().results)
    assert readme.read_text(encoding="utf-8") == text


def test_a_missing_readme_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a text file README\.md"):
        update_readme(tmp_path / "README.md", _evaluation().results)
