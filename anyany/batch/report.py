"""A run as one HTML page: no scripts, no network, media inside, every text escaped.

Bounded in size, however many items there are: the newest failures by reason, and a sample of the
items spread evenly over the ids, each with its pictures as thumbnails and its sound and clips
as players. What does not fit is linked to its file beside the page.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from anyany.batch.inspect import indexed
from anyany.batch.store import Store

SHOWN_ITEMS: Final = 500
SHOWN_FAILURES: Final = 200
THUMBNAIL: Final = 192  # pixels, the longer side
EMBEDDED_BYTES: Final = 12 * 2**20  # of all media in the page, before base64
TEXT_SHOWN: Final = 600  # characters
_TYPES: Final = {".mp4": "video/mp4", ".wav": "audio/wav", ".flac": "audio/flac"}
_POLICY: Final = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1c1c22; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
.note { color: #55555f; margin: .2rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tile { background: #f4f4f8; border-radius: 8px; padding: .6rem 1rem; min-width: 6.5rem; }
.tile b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.tile.bad b { color: #b3382c; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #d8d8e0; padding: .2rem .55rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { background: #f4f4f8; font-weight: 600; } td.n { text-align: right; }
td.bar { padding: 0; width: 16rem; vertical-align: middle; }
td.bar span { display: block; height: 1.05rem; background: #7c9cd6; }
.items { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .8rem;
  align-items: start; }
.item { border: 1px solid #d8d8e0; border-radius: 8px; padding: .6rem; font-size: .85rem;
  overflow-wrap: anywhere; }
.item .asked { color: #55555f; font-style: italic; }
.item b { font-size: .8rem; } .item p { margin: .35rem 0; white-space: pre-wrap; }
.item img { display: block; max-width: 100%; min-width: 6rem; border-radius: 4px;
  margin: .35rem 0; }
.item img.small { image-rendering: pixelated; width: 8rem; }
.item audio, .item video { display: block; width: 100%; margin: .35rem 0; }
details { margin: .4rem 0; } pre { background: #f4f4f8; padding: .8rem; overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6ea; background: #17171b; } a { color: #9db9ee; }
  th, pre, .tile { background: #24242b; } th, td, .item { border-color: #3a3a44; }
  .note, .item .asked { color: #a5a5b0; } .tile.bad b { color: #ff8d80; }
  td.bar span { background: #4a6aa6; } }
"""


_BINS: Final[Sequence[tuple[str, float]]] = (
    ("under 0.01 s", 0.01),
    ("0.01 to 0.1 s", 0.1),
    ("0.1 to 1 s", 1.0),
    ("1 to 10 s", 10.0),
    ("10 to 60 s", 60.0),
    ("a minute and more", math.inf),
)


@dataclass
class _Budget:
    """How many bytes of media the page may still take."""

    left: int = EMBEDDED_BYTES
    linked: int = 0

    def take(self, size: int) -> bool:
        if size > self.left:
            self.linked += 1
            return False
        self.left -= size
        return True


@dataclass
class _Figures:
    """What the page counts while it reads the ledger once."""

    done: int = 0
    copies: int = 0
    again: int = 0
    times: list[float] = field(default_factory=lambda: [math.inf, -math.inf])
    seconds: dict[str, float] = field(default_factory=dict)
    shares: list[int] = field(default_factory=lambda: [0] * len(_BINS))

    def add(self, record: Mapping[str, Any]) -> None:
        self.done += 1
        self.copies += record["attempts"] == 0
        self.again += record["attempts"] > 1
        self.times = [min(self.times[0], record["time"]), max(self.times[1], record["time"])]
        if not record["attempts"]:
            return
        for name, value in record["seconds"].items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        share = record["seconds"].get("share", 0.0)
        self.shares[next(i for i, (_, top) in enumerate(_BINS) if share < top)] += 1


def report_html(store: Store) -> str:
    """The page of a run.

    Args:
        store: of the run, at work or not.
    """
    budget, figures = _Budget(), _Figures()
    with indexed(store) as index:
        counts = index.counts()
        step = max(1, math.ceil(counts["done"] / SHOWN_ITEMS))
        items: list[str] = []
        for place, record in enumerate(store.ordered(index, "done")):
            figures.add(record)
            if place % step == 0:
                items.append(_item(store.out, record, budget))
        failures = _failures(store.ordered(index, "failed"))
    settings = store.settings()
    model = str(settings["settings"].get("system.name", "an unknown model"))
    title = f"anyany convert: {store.out.absolute().name}"
    spread = "" if step == 1 else f", every {step}th by id"
    linked = f"; {budget.linked} files are linked, not inside" if budget.linked else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_heading(model, counts, figures, settings.get('total'))}"
        f"{failures}{_timings(figures)}"
        f'<h2>Items</h2><p class="note">{len(items)} of {counts["done"]}{spread}{linked}</p>'
        f'<div class="items">{"".join(items)}</div>'
        f"<h2>Settings</h2><pre>{escape(json.dumps(settings, indent=1, ensure_ascii=False))}</pre>"
        "</body></html>\n"
    )


def _heading(model: str, counts: Mapping[str, int], figures: _Figures, total: int | None) -> str:
    begun = ""
    if figures.done:
        first, last = (datetime.fromtimestamp(t, UTC) for t in figures.times)
        begun = f"; items finished from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
    tiles = [("done", counts["done"], ""), ("failed", counts["failed"], "bad")]
    if total is not None:
        tiles.append(("left", max(0, total - counts["done"] - counts["failed"]), ""))
    tiles += [("taken over from an identical item", figures.copies, "")] * bool(figures.copies)
    tiles += [("needed more than one try", figures.again, "")] * bool(figures.again)
    shown = "".join(
        f'<div class="tile {kind if number else ""}"><b>{number:,}</b>{escape(name)}</div>'
        for name, number, kind in tiles
    )
    return f'<p class="note">{escape(model + begun)}</p><div class="tiles">{shown}</div>'


def _failures(records: Iterable[Mapping[str, Any]]) -> str:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    numbers: dict[tuple[str, str], int] = {}
    for record in records:
        reason = (record["error"]["code"], record["error"]["type"])
        numbers[reason] = numbers.get(reason, 0) + 1
        if sum(map(len, groups.values())) < SHOWN_FAILURES or reason not in groups:
            groups.setdefault(reason, []).append(record)
    if not groups:
        return ""
    parts = []
    for reason, number in sorted(numbers.items(), key=lambda entry: (-entry[1], entry[0])):
        rows = [
            [r["id"], str(r["line"]), r["error"]["message"], str(r["attempts"])]
            for r in groups[reason]
        ]
        rest = number - len(rows)
        more = f'<p class="note">and {rest:,} more: see errors.jsonl</p>' if rest else ""
        parts.append(
            f"<details open><summary><b>{number:,}</b> {escape(reason[0])} "
            f"({escape(reason[1])})</summary>"
            f"{_table(['id', 'line', 'reason', 'tries'], rows)}{more}</details>"
        )
    return f"<h2>Failures</h2>{''.join(parts)}"


def _timings(figures: _Figures) -> str:
    computed = figures.done - figures.copies
    if not computed:
        return ""
    most = max(figures.shares)
    bins = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{number:,}</td>'
        f'<td class="bar"><span style="width:{100 * number / most:.1f}%"></span></td></tr>'
        for (name, _), number in zip(_BINS, figures.shares, strict=True)
    )
    stages = [
        [name, f"{total:,.2f}", f"{total / computed:.4f}"]
        for name, total in sorted(figures.seconds.items())
        if name != "share"
    ]
    return (
        "<h2>Time</h2>"
        f"<table><tr><th>an item took</th><th>items</th><th></th></tr>{bins}</table>"
        "<p></p>"
        + _table(["stage", "seconds in all", "an item"], stages)
        + '<p class="note">An item\'s own time is its share of the batch that it was computed in; '
        "a stage's counts from its batch's beginning.</p>"
    )


def _item(out: Path, record: Mapping[str, Any], budget: _Budget) -> str:
    name = record["id"]
    asked = record["asked"]
    shown = [f'<p class="asked">{escape(asked)}</p>'] if asked else []
    for part in record["reply"]["parts"]:
        if part["type"] == "text":
            text = part["text"]
            text = text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN] + " …"
            shown.append(f"<p>{escape(text)}</p>")
        else:
            shown.append(_medium(out, name, part, budget))
    link = f'<a href="{escape(quote(name))}/reply.json">{escape(name)}</a>'
    return f'<div class="item"><b>{link}</b>{"".join(shown)}</div>'


def _medium(out: Path, id: str, part: Mapping[str, str], budget: _Budget) -> str:
    path = out / id / part["file"]
    address = escape(f"{quote(id)}/{quote(part['file'])}")
    linked = f'<p><a href="{address}">{escape(part["file"])}</a></p>'
    try:
        if part["type"] == "image":
            data, small = _thumbnail(path)
            if not budget.take(len(data)):
                return linked
            kind = ' class="small"' if small else ""
            return (
                f'<a href="{address}"><img{kind} alt="{escape(part["file"])}" '
                f'src="{_data_uri("image/png" if small else "image/jpeg", data)}"></a>'
            )
        if not budget.take(path.stat().st_size):
            return linked
        source = _data_uri(_TYPES[path.suffix], path.read_bytes())
    except (OSError, KeyError, ValueError):
        return f'<p class="note">{escape(part["file"])} is missing or damaged</p>'
    tag = "video" if part["type"] == "video" else "audio"
    return f'<{tag} controls preload="metadata" src="{source}"></{tag}>{linked}'


def _thumbnail(path: Path) -> tuple[bytes, bool]:
    """A picture no larger than THUMBNAIL, and whether it is small enough to be kept exactly."""
    from anyany.media import read_image

    picture = read_image(path)
    small = max(picture.size) <= 128
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue(), small


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
