"""An evaluation as one HTML page: no scripts, no network, media inside, every text escaped.

Pictures are shown as they are, clips as strips of their frames, sounds as mel pictures with a
player.
"""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anyany.pocket.evaluate_kinds import Medium
from anyany.pocket.evaluate_scores import UNKNOWN, Item, Row
from anyany.pocket.figures import NOT_MEASURED, figures_of, percent
from anyany.pocket.stills import Recording, still
from anyany.pocket.synthesis import SAMPLE_RATE

if TYPE_CHECKING:
    from PIL import Image

    from anyany.pocket.evaluate import Evaluation

SHOWN: Final = 24  # items of each row
SHOWN_SOUNDS: Final = 12  # of each row with recordings, which are larger
_POLICY: Final = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1c1c22; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1rem 0 .25rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #d8d8e0; padding: .2rem .55rem; text-align: left; vertical-align: top; }
th { background: #f4f4f8; font-weight: 600; } td.n { text-align: right; }
td.hit { background: #e2f2e4; } td.miss { background: #fbe3e0; }
.items { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; }
.item { border: 2px solid #b3382c; border-radius: 6px; padding: .4rem; font-size: .78rem;
  overflow-wrap: anywhere; }
.item.right { border-color: #2f7d3b; }
.item img { height: 64px; max-width: 100%; image-rendering: pixelated; margin-right: .2rem; }
.items.wide { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.wide .item img { height: auto; } .wide .item img.picture { width: 64px; }
audio { width: 100%; height: 2rem; }
.confusions { display: flex; flex-wrap: wrap; gap: 1rem; } .confusions table { font-size: .78rem; }
.note { color: #55555f; } pre { background: #f4f4f8; padding: .8rem; overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6ea; background: #17171b; } th, pre { background: #24242b; }
  th, td { border-color: #3a3a44; } td.hit { background: #1d3a22; } td.miss { background: #47221e; }
  .note { color: #a5a5b0; } }
"""


def report_html(evaluation: Evaluation) -> str:
    """The page of an evaluation."""
    results = evaluation.results
    title = f"anyany evaluate: {results['model']['name']}"
    sections = "".join(
        _section(row, results["rows"][name]) for name, row in evaluation.rows.items()
    )
    facts = {
        key: results[key] for key in ("model", "config", "presets", "engine", "machine", "versions")
    }
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_summary(results)}{_comparisons(results)}{sections}"
        f"<h2>Made with</h2><pre>{escape(json.dumps(facts, indent=1))}</pre>"
        "</body></html>\n"
    )


def _summary(results: Mapping[str, Any]) -> str:
    config = results["config"]
    strict = ", captions held out, too" if config["strict"] else ""
    said = f"{config['split']} combinations{strict}, seed {config['seed']}, greedy text"
    rows = []
    for figure in figures_of(results):
        value = figure.value(results)
        detail = figure.detail(results) if value else ""
        rows.append([figure.label, value or NOT_MEASURED, detail, figure.goal])
    head = ["", "measured", "95% interval, worst pair", "goal / floor"]
    return f'<p class="note">{escape(said)}</p>{_table(head, rows)}'


def _comparisons(results: Mapping[str, Any]) -> str:
    rows = []
    for name, found in results["comparisons"].items():
        low, high = found["interval"] or (None, None)
        rows.append(
            [
                name,
                *map(_number, (found["value"], low, high)),
                percent(found["all"]),
                percent(found["base_all"]),
            ]
        )
    if not rows:
        return ""
    head = ["same captions, same noise", "value", "from", "to", "left", "right"]
    return f"<h2>Compared case by case</h2>{_table(head, rows)}"


def _section(row: Row, summary: Mapping[str, Any]) -> str:
    worst = summary["worst_pair"]
    low, high = summary["interval"]
    figures = [[name, percent(share)] for name, share in summary["attributes"].items()]
    figures += [
        ["attribute mean", percent(summary["attribute_mean"])],
        ["all right", f"{percent(summary['all'])} ({percent(low)} – {percent(high)})"],
        ["worst pair", f"{worst['pair']}: {percent(worst['all'])} of {worst['n']}"],
        *([name, percent(share)] for name, share in summary["extras"].items()),
        *(
            [f"{name} (n = {group['n']})", percent(group["all"])]
            for name, group in summary["groups"].items()
        ),
    ]
    shown, wide = _shown(row.items), "" if _pictures_alone(row.items) else " wide"
    pairs = [[n, str(p["n"]), percent(p["all"])] for n, p in summary["pairs"].items()]
    tables = "".join(_confusion(name, table) for name, table in summary["confusion"].items())
    return (
        f"<h2>{escape(summary['title'])}</h2>"
        f'<p class="note">{escape(summary["note"])}; n = {summary["n"]}, '
        f"{summary['seconds']:.1f} s</p>"
        f'<div class="confusions"><div>{_table(["", "right"], figures)}</div>'
        f"<details><summary>{len(pairs)} combinations</summary>"
        f"{_table(['combination', 'n', 'all right'], pairs)}</details></div>"
        f'<div class="items{wide}">{"".join(map(_item, shown))}</div>'
        f'<h3>Truth (rows) and what was seen (columns)</h3><div class="confusions">{tables}</div>'
    )


def _shown(items: Sequence[Item]) -> Sequence[Item]:
    """The first ones; fewer of recordings."""
    sounds = any(_is_sound(medium) for item in items[:1] for medium in (item.shown, item.made))
    return items[: SHOWN_SOUNDS if sounds else SHOWN]


def _pictures_alone(items: Sequence[Item]) -> bool:
    media = [medium for item in items[:1] for medium in (item.shown, item.made)]
    return not any(isinstance(medium, np.ndarray) for medium in media)


def _is_sound(medium: Medium) -> bool:
    return isinstance(medium, np.ndarray) and medium.ndim == 1


def _item(item: Item) -> str:
    media = [
        _medium(alt, medium)
        for alt, medium in (("shown", item.shown), ("made", item.made))
        if medium is not None
    ]
    wrong = [
        f"{name}: {getattr(item.seen, name) or UNKNOWN}, not {getattr(item.truth, name)}"
        for name, right in item.right.items()
        if not right
    ]
    mark = "✓" if item.all_right else "✗ " + "; ".join(wrong)
    lines = [escape(line) for line in (item.prompt, item.reply, mark) if line]
    kind = "item right" if item.all_right else "item"
    return f'<div class="{kind}"><div>{"".join(media)}</div>{"<br>".join(lines)}</div>'


def _confusion(name: str, table: Mapping[str, Mapping[str, int]]) -> str:
    seen = {value for row in table.values() for value in row}
    columns = [value for value in table if value in seen]
    columns += sorted(seen - set(columns) - {UNKNOWN}) + [UNKNOWN] * (UNKNOWN in seen)
    body = "".join(
        f"<tr><th>{escape(truth)}</th>"
        + "".join(
            f'<td class="n {"hit" if column == truth else "miss" if row.get(column) else ""}">'
            f"{row.get(column, '')}</td>"
            for column in columns
        )
        + "</tr>"
        for truth, row in table.items()
    )
    head = "".join(f"<th>{escape(value)}</th>" for value in (name, *columns))
    return f"<table><tr>{head}</tr>{body}</table>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _medium(alt: str, medium: Medium) -> str:
    """A medium as a still picture, and as a player if it sounds."""
    kind = ' class="picture"' if not isinstance(medium, np.ndarray) else ""
    picture = f'<img{kind} alt="{escape(alt)}" src="{_png_uri(still(medium))}">'
    if not _is_sound(medium):
        return picture
    return f'{picture}<audio controls preload="none" src="{_wav_uri(medium)}"></audio>'


def _png_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def _wav_uri(waveform: Recording) -> str:
    """16-bit samples, mono."""
    levels = (np.clip(waveform, -1, 1) * 32767).round().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(levels.tobytes())
    return _data_uri("audio/wav", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
