"""What is said of a run: report, status, verify, clean."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from batch_faults import PaintFactory, numbered, tree, write_manifest

from anyany.batch import Run, RunOptions, Store, open_manifest
from anyany.batch.clean import clean
from anyany.batch.inspect import status, verify
from anyany.batch.report import report_html
from anyany.errors import RefusedError, UsageError

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "</style><script>alert(1)</script>",
    "</pre><iframe src=//evil.example>",
    "&lt;script&gt;",
    "<a href=javascript:alert(1)>x</a>",
    "]]><!--",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of good, failed and hostile items."""
    records: list[dict[str, Any]] = [*numbered(6), {"id": "twin", "text": "number 1"}]
    records += [{"id": f"x{i}", "text": text} for i, text in enumerate(HOSTILE)]
    records += [{"id": f"m{i}", "images": [f"none {i} &copy;.png"]} for i in range(3)]
    path = write_manifest(tmp_path / "m.jsonl", records)
    factory = PaintFactory(str(tmp_path), name=f"paint {SCRIPT}")
    Run(open_manifest(path), tmp_path / "out", factory, options=RunOptions(workers=0))()
    return Store(tmp_path / "out")


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_is_whole_and_harmless(store: Store) -> None:
    text = report_html(store)
    page = Page(text)
    assert not page.tags & {"script", "iframe", "svg", "object", "form", "base", "link"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("src", "href")]
    assert addresses
    for address in addresses:
        assert address.startswith("data:image/") or re.fullmatch(r"[\w%.\-]+/[\w.]+", address)
    for hostile in HOSTILE:
        assert hostile in page.words
    assert "none 0 &copy;.png" in page.words
    assert len(text) < 20 * 2**20
    assert "default-src 'none'" in dict(page.attributes).get("content", "") or any(
        "default-src 'none'" in value for _, value in page.attributes
    )


def test_the_page_says_what_happened(store: Store) -> None:
    words = " ".join(Page(report_html(store)).words.split())
    assert "17done" in words.replace(" ", "")
    assert "3failed" in words.replace(" ", "")
    assert "missing (MediaError)" in words
    assert "taken over from an identical item" in words
    assert '"system.name"' in words


def test_status_counts_and_names_reasons(store: Store) -> None:
    found = status(store)
    assert (found["done"], found["failed"], found["total"]) == (17, 3, 20)
    assert found["reasons"] == {"missing": 3}
    assert found["running"] is None
    assert found["complete"]


def test_verify_names_every_fault(store: Store) -> None:
    assert verify(store).faults == []
    out = store.out
    (out / "r00000" / "image_0.png").write_bytes(
        b"x" * (out / "r00000" / "image_0.png").stat().st_size
    )
    (out / "r00001" / "reply.json").unlink()
    (out / "r00002" / "reply.json").write_bytes(b"short")
    (out / "r00003" / "extra.txt").touch()
    (out / "stranger").mkdir()
    (out / "errors.jsonl").write_text("")
    results = (out / "results.jsonl").read_text().replace("number 5!", "number 6!")
    (out / "results.jsonl").write_text(results)
    faults = verify(store).faults
    assert faults[0] == "r00000/image_0.png: its content has changed"
    assert faults[1] == "r00001/reply.json: missing"
    assert re.fullmatch(r"r00002/reply.json: 5 bytes, not \d+", faults[2])
    assert faults[3:] == [
        "r00003/extra.txt: the ledger does not know it",
        "stranger: no finished item is known by this name",
        "results.jsonl: not what the ledger says, from r00005 on",
        "errors.jsonl: not what the ledger says, from m0 on",
    ]


def test_clean_removes_leftovers_and_nothing_else(store: Store) -> None:
    before = tree(store.out)
    (store.state / "work").mkdir()
    (store.state / "work" / "half").touch()
    (store.state / "index.sqlite").touch()
    (store.out / "stranger").mkdir()
    expected = [".anyany/index.sqlite", ".anyany/work", "stranger"]
    assert clean(store, dry_run=True) == expected
    assert (store.out / "stranger").exists()
    assert clean(store) == expected
    assert tree(store.out) == before
    assert clean(store) == []
    assert verify(store).faults == []
    clean(store, state=True)
    assert tree(store.out) == before
    with pytest.raises(UsageError, match="no run of anyany convert is here"):
        Store(store.out)


def test_clean_is_refused_while_a_run_is_at_work(store: Store) -> None:
    from anyany.batch.lock import Lock

    lock = Lock(store.locks, (1, 2))
    with pytest.raises(RefusedError):
        clean(store)
    lock.release()
