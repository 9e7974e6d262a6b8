"""The README's table of figures, written from an evaluation's results and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anyany.errors import UsageError
from anyany.media import write_bytes

BEGIN: Final = "<!-- figures:begin -->"
END: Final = "<!-- figures:end -->"
NOT_MEASURED: Final = "not measured"

_Results = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        label: of the line.
        goal: and floor, as text.
        value: reads the figure; None where it was not measured.
        detail: reads the interval, the worst pair and the like.
        row: a system that cannot be measured in this row has no such line.
    """

    label: str
    goal: str
    value: Callable[[_Results], str | None]
    detail: Callable[[_Results], str]
    row: str


def figures_markdown(results: _Results) -> str:
    """The table of an evaluation, without the markers.

    Args:
        results: as `results.json` holds them.
    """
    config = results["config"]
    lines = [
        "| | measured | 95% interval, worst pair | goal / floor |",
        "|---|---|---|---|",
    ]
    for figure in figures_of(results):
        value = figure.value(results)
        detail = figure.detail(results) if value else ""
        lines.append(f"| {figure.label} | {value or NOT_MEASURED} | {detail} | {figure.goal} |")
    captions = " whose captions were held out, too" if config["strict"] else ""
    model, engine = results["model"], results["engine"]
    made_with = (
        f"Model `{model['name']}` `{model['sha256'][:12]}`, {engine['device']} {engine['dtype']}, "
        f"torch {results['versions']['torch']}"
    )
    lines += [
        "",
        f"{config['split'].capitalize()} combinations{captions}, n = {config['num_items']} a row"
        f"{_other_numbers(results)}, seed {config['seed']}, greedy; intervals from a bootstrap "
        f"over {_units(results)}. {made_with}. `anyany evaluate` prints it.",
    ]
    return "\n".join(lines)


def figures_of(results: _Results) -> list[Figure]:
    """The lines that the measured system can have."""
    measurable = results.get("measurable", _PICTURE_ROWS)
    return [figure for figure in FIGURES if figure.row in measurable]


def update_readme(path: str | Path, results: _Results) -> Path:
    """Put the table between the markers of a file.

    Raises:
        UsageError: no such file, or not one pair of markers in it.
    """
    return replace_between(Path(path), figures_markdown(results), begin=BEGIN, end=END)


def replace_between(path: Path, text: str, *, begin: str, end: str) -> Path:
    """Put a text between two markers of a file, which stay.

    Raises:
        UsageError: no such file, or not one pair of markers in it.
    """
    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"expected a text file {path.name} to put figures into") from None
    head, found, rest = whole.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed or begin in tail or end in tail or end in head:
        raise UsageError(f"{path.name}: expected the markers {begin} and {end} once, in this order")
    write_bytes(f"{head}{begin}\n{text}\n{end}{tail}".encode(), path)
    return path


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f}%"


def _other_numbers(results: _Results) -> str:
    """How many items rows have that do not have the usual number."""
    usual, few = results["config"]["num_items"], results["config"].get("num_video")
    checkers = [row for name, row in results["rows"].items() if name.endswith("checker")]
    said = [f"{checkers[0]['n']} for the checkers"] if checkers else []
    if few not in (None, usual):
        said.append(f"{few} where clips are made")
    return f" ({', '.join(said)})" if said else ""


def _units(results: _Results) -> str:
    """What a bootstrap draws anew."""
    if list(results.get("measurable", _PICTURE_ROWS)) == list(_PICTURE_ROWS):
        return "(thing, color) pairs"
    return "(thing, color) and (thing, motion) pairs and (thing, count, pitch) triples"


def _row(results: _Results, name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = results["rows"].get(name)
    return found


def _lowest(name: str) -> Callable[[_Results], str | None]:
    def value(results: _Results) -> str | None:
        row = _row(results, name)
        return None if row is None else percent(min(row["attributes"].values()))

    return value


def _lowest_name(name: str) -> Callable[[_Results], str]:
    def detail(results: _Results) -> str:
        row = results["rows"][name]
        lowest = min(row["attributes"], key=lambda attribute: row["attributes"][attribute])
        return f"lowest: {lowest}; all right {percent(row['all'])}"

    return detail


def _all(name: str) -> Callable[[_Results], str | None]:
    def value(results: _Results) -> str | None:
        row = _row(results, name)
        return None if row is None else percent(row["all"])

    return value


def _mean_and_all(name: str) -> Callable[[_Results], str | None]:
    def value(results: _Results) -> str | None:
        row = _row(results, name)
        return None if row is None else f"{percent(row['attribute_mean'])} / {percent(row['all'])}"

    return value


def _spread(name: str) -> Callable[[_Results], str]:
    def detail(results: _Results) -> str:
        row = results["rows"][name]
        low, high = row["interval"]
        worst = row["worst_pair"]
        return f"{percent(low)} – {percent(high)}; {worst['pair']} {percent(worst['all'])}"

    return detail


def _ratio(name: str) -> Callable[[_Results], str | None]:
    def value(results: _Results) -> str | None:
        found = results["comparisons"].get(name)
        if found is None:
            return None
        return "undefined" if found["value"] is None else f"{found['value']:.3f}"

    return value


def _ratio_spread(name: str) -> Callable[[_Results], str]:
    def detail(results: _Results) -> str:
        found = results["comparisons"][name]
        shares = f"{percent(found['all'])} / {percent(found['base_all'])}"
        if found["interval"] is None:
            return shares
        low, high = found["interval"]
        return f"{low:.3f} – {high:.3f}; {shares}"

    return detail


def _points(results: _Results) -> str | None:
    found = results["comparisons"].get("direct - reference")
    return None if found is None else f"{100 * found['value']:+.1f} points"


def _points_spread(results: _Results) -> str:
    found = results["comparisons"]["direct - reference"]
    low, high = found["interval"]
    return f"{100 * low:+.1f} – {100 * high:+.1f}"


def _checked(label: str, row: str) -> Figure:
    return Figure(label, "99.5% / 99%", _lowest(row), _lowest_name(row), row)


def _mean(label: str, row: str, goal: str) -> Figure:
    return Figure(label, goal, _mean_and_all(row), _spread(row), row)


def _right(label: str, row: str, goal: str) -> Figure:
    return Figure(label, goal, _all(row), _spread(row), row)


def _chained(label: str, row: str, base: str, goal: str = "") -> Figure:
    name = f"{row} / {base}"
    return Figure(label, goal, _ratio(name), _ratio_spread(name), row)


_CAPTIONED: Final = 'likewise, the decoder told the reply\'s words (`condition="caption"`)'
_CHAIN_GOAL: Final = "0.98 / 0.90"
_MADE_GOAL: Final = "90% / 70%"
_SAID_GOAL: Final = "95% / 85%"
_TURNED_GOAL: Final = "97% / 90%"
_PICTURES: Final = (
    _checked("checkers on true renders, lowest attribute", "checker"),
    _mean(
        "true pictures after the VAE round trip, attribute mean / all right",
        "vae",
        "99% of attributes",
    ),
    _mean(
        "text → image with the decoder's own text encoder (the ceiling), attribute mean / all "
        "right",
        "direct",
        "98% / 90%; floor 93% / 70%",
    ),
    _chained(
        "text → image through the whole chain, all right, as a ratio to that ceiling",
        "chain",
        "direct",
        _CHAIN_GOAL,
    ),
    _chained(_CAPTIONED, "caption", "direct"),
    _right("image → text, all right", "describe", "97% / 90%"),
    _right(
        "image + text → image, the asked attribute changed and the others kept",
        "edit",
        "85% / 70%",
    ),
    Figure(
        "shipped preset less the reference preset, all right, same captions and noise",
        "within 1 point",
        _points,
        _points_spread,
        "reference",
    ),
)
_CLIPS: Final = (
    _checked("checkers on true clips, lowest attribute", "video.checker"),
    _mean("true clips after the VAE round trip, attribute mean / all right", "video.vae", ""),
    _right(
        "text → video with the decoder's own text encoder: thing, color and motion right",
        "video.direct",
        _MADE_GOAL,
    ),
    _chained(
        "text → video through the whole chain, as a ratio to that",
        "video.chain",
        "video.direct",
        _CHAIN_GOAL,
    ),
    _chained(_CAPTIONED, "video.caption", "video.direct"),
    _right("video → text, all right", "video.describe", _SAID_GOAL),
)
_SOUNDS: Final = (
    _checked("checkers on true sounds, lowest attribute", "audio.checker"),
    _mean(
        "true sounds after mel VAE and vocoder, attribute mean / all right",
        "audio.vae",
        "97% of attributes",
    ),
    _right(
        "text → audio with the decoder's own text encoder: thing, count and pitch right",
        "audio.direct",
        _MADE_GOAL,
    ),
    _chained(
        "text → audio through the whole chain, as a ratio to that",
        "audio.chain",
        "audio.direct",
        _CHAIN_GOAL,
    ),
    _chained(_CAPTIONED, "audio.caption", "audio.direct"),
    _right("audio → text, all right", "audio.describe", _SAID_GOAL),
)
_TURNS: Final = (
    _right("image → its sound: the thing right", "image-to-audio", _TURNED_GOAL),
    _right("sound → its picture: the thing right", "audio-to-image", _TURNED_GOAL),
    _right("video → its sound: the thing right", "video-to-audio", _TURNED_GOAL),
    _right(
        'image + "make it move left" → video: thing and color kept, motion right',
        "image-to-video",
        "",
    ),
)
FIGURES: Final[tuple[Figure, ...]] = (*_PICTURES, *_CLIPS, *_SOUNDS, *_TURNS)
_PICTURE_ROWS: Final = (  # of a system that sees and draws pictures alone
    "checker",
    "vae",
    "direct",
    "reference",
    "chain",
    "caption",
    "describe",
    "edit",
)
