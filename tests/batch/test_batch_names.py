"""Ids and paths: every way out of a folder is closed, on any system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from anyany.batch.names import (
    check_id,
    check_no_links,
    check_relative,
    folded,
    id_of_path,
    read_below,
    shown,
)
from anyany.errors import MediaError, UsageError
from anyany.media import Limits

# What a manifest may try, to read or to write outside its folder (reliability.md, I5).
ATTACKS: Final = (
    "../secret.png",
    "a/../../secret.png",
    "..",
    "a/..",
    "/etc/passwd",
    "//host/share/a.png",
    "\\\\host\\share\\a.png",
    "C:\\windows\\a.png",
    "c:secret.png",
    "..\\secret.png",
    "a\\b.png",
    "~/secret.png",
    "~root",
    "a/~/b.png",
    "a\0.png",
    "a\n.png",
    "CON",
    "nul.png",
    "a/com1.txt",
    "a/./b.png",
    "a//b.png",
    "a/",
    "․․/secret.png",  # one-dot leaders
    "‥/secret.png",  # a two-dot leader
    "．．/secret.png",  # wide dots
    "a／..／secret.png",  # wide slashes
    "a.png ",
    "a.png.",
    "a\u202egnp.exe",
    "a\ud800.png",
    "file:///etc/passwd",
    "",
    "x" * 300,
    "a/" * 1500 + "b",
)


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_no_attack_is_a_path_or_an_id(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        check_relative(text)
    with pytest.raises(UsageError, match="cannot name a folder"):
        check_id(text)


@pytest.mark.parametrize("text", ["a/b.png", "photo 1 (größe).jpg", "日本/写真.png", "a-b_c.d.png"])
def test_plain_paths_pass(text: str) -> None:
    assert check_relative(text) == text


def test_ids_are_single_visible_names() -> None:
    assert check_id("photo 1 (größe)") == "photo 1 (größe)"
    for text in ("a/b", ".anyany", ".hidden", "Results.jsonl", "report.html", "a" * 201):
        with pytest.raises(UsageError, match="cannot name a folder"):
            check_id(text)
    assert folded("Größe") == folded("GRÖSSE") == folded("GRO\u0308SSE")


def test_ids_of_paths_are_distinct_and_safe() -> None:
    paths = ["a.png", "b/a.png", "b__a.png", "ü/a.png", "u/a.png", "CON.png", "x" * 200, "a b.png"]
    ids = [id_of_path(path) for path in paths]
    assert len(set(ids)) == len(paths)
    assert ids[:2] == ["a.png", "b__a.png"]
    assert all(check_id(name) == name for name in ids)


def test_links_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (root / "a" / "in.png").write_bytes(b"inside")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "inner.png").symlink_to(root / "a" / "in.png")
    assert read_below(root, "a/in.png") == b"inside"
    check_no_links(root, "a/in.png")
    for path in ("link.png", "folder/secret.png", "inner.png"):
        with pytest.raises(UsageError, match="through a link"):
            check_no_links(root, path)
        with pytest.raises(MediaError) as caught:
            read_below(root, path)
        assert caught.value.code in ("refused", "missing")
    moved = tmp_path / "moved"
    moved.symlink_to(root)
    assert read_below(moved, "a/in.png") == b"inside"  # the root itself is its owner's choice


def test_reading_reports_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "big.png").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe.png")
    cases = {
        "none.png": "missing",
        "big.png/x": "missing",
        "empty.png": "empty",
        "folder": "unsupported",
        "big.png": "too_large",
        "pipe.png": "refused",
        "../x": "refused",
        "a\0b": "refused",
    }
    for path, code in cases.items():
        with pytest.raises(MediaError) as caught:
            read_below(tmp_path, path, limits=Limits(file_bytes=10))
        assert caught.value.code == code, path
        assert str(tmp_path) not in str(caught.value)


def test_shown_text_is_one_short_line() -> None:
    assert shown("a\nb\0c") == "'a?b?c'"
    assert len(shown("x" * 1000)) < 90
