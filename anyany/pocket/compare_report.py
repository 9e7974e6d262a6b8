"""A comparison of bridges as a Markdown table, and as one HTML page with its curves inside.

The page has no scripts and needs no network: curves are inline SVG, every text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from anyany.media import write_bytes
from anyany.pocket.figures import replace_between

MARKS: Final = ("<!-- compare:begin -->", "<!-- compare:end -->")
NONE: Final = "–"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 170, 34, 8, 10, 26
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
:root { --line: #1f6feb; --band: #1f6feb33; --other: #c9c9d2; --ink: #1c1c22; --rule: #d8d8e0; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
  color: var(--ink); background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums;
  font-size: .85rem; }
th, td { border: 1px solid var(--rule); padding: .2rem .5rem; text-align: right; }
th { font-weight: 600; vertical-align: bottom; }
td:first-child, th:first-child { text-align: left; white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--rule); border-radius: 6px; padding: .6rem; }
.note { color: #55555f; font-size: .85rem; margin: .2rem 0; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 10px; fill: var(--ink); }
.axis { stroke: var(--rule); } .floor { stroke: #b3382c; stroke-dasharray: 4 3; }
.other { stroke: var(--other); fill: none; stroke-width: .8; }
.own { stroke: var(--line); fill: none; stroke-width: 2; } .band { fill: var(--band); }
pre { overflow-x: auto; font-size: .8rem; }
@media (prefers-color-scheme: dark) {
  :root { --line: #6cb0ff; --band: #6cb0ff33; --other: #4a4a55; --ink: #e6e6ea; --rule: #3a3a44; }
  body { background: #17171b; } .note { color: #a5a5b0; } }
"""
# Heading, key of the figures, factor, digits.
_COLUMNS: Final[tuple[tuple[str, str, float, int], ...]] = (
    ("loss", "loss", 1.0, 3),
    ("at equal seconds", "at_seconds", 1.0, 3),
    ("shuffled media", "shuffled", 1.0, 2),
    ("never shown", "never", 1.0, 3),
    ("words right %", "accuracy", 100.0, 1),
    ("all right %", "exact", 100.0, 1),
    ("never shown: words %", "never_accuracy", 100.0, 1),
    ("tokens", "tokens", 1.0, 0),
    ("trained, thousand", "trainable", 1e-3, 1),
    ("ms a step", "step_seconds", 1e3, 0),
    ("MB", "memory", 1e-6, 1),
    ("text before", "text_before", 1.0, 3),
    ("text after", "text_after", 1.0, 3),
)


def compare_markdown(results: Mapping[str, Any]) -> str:
    """The table of a comparison."""
    head, rows = _rows(results)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failed = [f"Left out: {name}: {line}" for name, line in results["failed"].items()]
    return "\n\n".join([table, _made_with(results), *failed])


def write_docs(results: Mapping[str, Any], page: Path) -> None:
    """Put the table between the marks of a page, and each row where its bridge is described.

    A bridge's row is a line that begins with its name, as `_measured` writes it.

    Raises:
        UsageError: the page is not there, or lacks the marks.
    """
    replace_between(page, compare_markdown(results), begin=MARKS[0], end=MARKS[1])
    rows = [_measured(name, one["figures"]) for name, one in results["bridges"].items()]
    told = {row.partition(":")[0]: row for row in rows}
    lines = page.read_text(encoding="utf-8").splitlines()
    filled = [told.get(line.partition(":")[0], line) for line in lines]
    write_bytes(("\n".join(filled) + "\n").encode(), page)


def _measured(name: str, figures: Mapping[str, Any]) -> str:
    cells = {column: _cell(figures[key], by, digits) for column, key, by, digits in _COLUMNS}
    return (
        f"*Measured*, {name}: loss {cells['loss']}, never shown {cells['never shown']}; "
        f"{cells['tokens']} tokens, {cells['trained, thousand']} thousand trained, "
        f"{cells['ms a step']} ms a step."
    )


def compare_html(results: Mapping[str, Any]) -> str:
    """The page of a comparison."""
    head, rows = _rows(results)
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    cards = "".join(_card(results, name) for name in results["bridges"])
    failed = "".join(
        f'<p class="note">left out: {escape(name)}: {escape(line)}</p>'
        for name, line in results["failed"].items()
    )
    facts = {key: results[key] for key in ("config", "machine", "versions")}
    title = "anyany compare: bridges"
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="note">{escape(_made_with(results))}</p>{failed}'
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
        "</div><h2>Held-out loss by steps, and by seconds</h2>"
        '<p class="note">Blue: the mean over seeds, with the band from lowest to highest. Gray: '
        "the other bridges. Dashed red: the best possible loss without the medium.</p>"
        f'<div class="cards">{cards}</div>'
        f"<h2>Made with</h2><pre>{escape(json.dumps(facts, indent=1))}</pre></body></html>\n"
    )


def _rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and one row a bridge; columns that nothing was measured for are left out."""
    found = results["bridges"]
    shown = [c for c in _COLUMNS if any(one["figures"][c[1]] for one in found.values())]
    floors = {one["floor"] for one in found.values()}
    told = len(floors) > 1  # else it stands below the table
    head = ["bridge", *(["floor"] if told else []), *(column[0] for column in shown)]
    rows = []
    for name, one in found.items():
        floor = [NONE if one["floor"] is None else f"{one['floor']:.3f}"] if told else []
        cells = [_cell(one["figures"][key], factor, digits) for _, key, factor, digits in shown]
        rows.append([name, *floor, *cells])
    return head, rows


def _cell(figure: Mapping[str, float] | None, factor: float, digits: int) -> str:
    if figure is None:
        return NONE
    mean, spread = figure["mean"] * factor, figure["spread"] * factor
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread > 0 else "")


def _made_with(results: Mapping[str, Any]) -> str:
    config = results["config"]
    pocket = config["data"] == "pocket"
    data = f"Task {config['task']} of the pocket world" if pocket else Path(config["data"]).name
    floors = {one["floor"] for one in results["bridges"].values()} - {None}
    floor = (
        f" Best possible loss without the medium {floors.pop():.3f}." if len(floors) == 1 else ""
    )
    seconds = f", then on to {config['seconds']:g} seconds" if config["seconds"] else ""
    plural = "" if config["seeds"] == 1 else "s"
    return (
        f"{data}; {config['seeds']} seed{plural} (mean ± standard "
        f"deviation), {config['steps']} steps of {config['batch_size']}{seconds}; losses in nats "
        f"a token."
        f"{floor} Encoder of {config['system']}; {config['device']}, {config['threads']} "
        f"thread(s), torch {results['versions'].get('torch', '?')}."
    )


def _card(results: Mapping[str, Any], name: str) -> str:
    one = results["bridges"][name]
    figures = one["figures"]
    recipe = one["recipe"]
    parts = ", ".join(recipe["train"])
    said = f"{recipe['projector']['type']}, {figures['tokens']['mean']:.0f} tokens; trains {parts}"
    plots = "".join(_plot(results, name, axis) for axis in (0, 1))
    return (
        f'<div class="card"><h3>{escape(one["title"])}</h3><p class="note">{escape(said)}</p>'
        f"{plots}</div>"
    )


def _plot(results: Mapping[str, Any], name: str, axis: int) -> str:
    """One bridge's curve before the others'; axis 0 is steps, 1 seconds."""
    means = {other: _mean(one["curves"], axis) for other, one in results["bridges"].items()}
    points = [point for line in means.values() for point in line]
    floor = results["bridges"][name]["floor"]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = max(max((y for _, y in points), default=1.0), floor or 0.0) * 1.05 or 1.0

    def at(x: float, y: float) -> str:
        across = _LEFT + x / right * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (1 - min(y, top) / top) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    def line(kind: str, drawn: Sequence[tuple[float, float]]) -> str:
        return f'<polyline class="{kind}" points="{" ".join(at(x, y) for x, y in drawn)}"/>'

    others = "".join(line("other", drawn) for other, drawn in means.items() if other != name)
    band = _band(results["bridges"][name]["curves"], axis)
    shape = f'<polygon class="band" points="{" ".join(at(x, y) for x, y in band)}"/>'
    dashed = (
        f'<polyline class="floor" points="{at(0, floor)} {at(right, floor)}"/>' if floor else ""
    )
    unit = ("steps", "seconds")[axis]
    label = escape(f"{results['bridges'][name]['title']}: held-out loss by {unit}")
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline class="axis" fill="none" points="{at(0, top)} {at(0, 0)} {at(right, 0)}"/>'
        f"{others}{shape}{dashed}{line('own', means[name])}"
        f'<text x="2" y="{_TOP + 8}">{top:.1f}</text><text x="2" y="{bottom}">0</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 10}" text-anchor="end">'
        f"{right:.0f} {unit}</text>"
        "</svg>"
    )


def _mean(curves: Sequence[Sequence[Sequence[float]]], axis: int) -> list[tuple[float, float]]:
    """The mean over seeds, point by point as far as all go."""
    return [
        (
            sum(point[axis] for point in points) / len(points),
            sum(point[2] for point in points) / len(points),
        )
        for points in zip(*curves, strict=False)
    ]


def _band(curves: Sequence[Sequence[Sequence[float]]], axis: int) -> list[tuple[float, float]]:
    """Round the lowest and the highest seed."""
    columns = list(zip(*curves, strict=False))
    across = [x for x, _ in _mean(curves, axis)]
    low = [min(point[2] for point in points) for points in columns]
    high = [max(point[2] for point in points) for points in columns]
    return [*zip(across, low, strict=True), *reversed(list(zip(across, high, strict=True)))]
