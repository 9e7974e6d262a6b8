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
    """

    label: str
    goal: str
    value: Callable[[_Results], str | None]
    detail: Callable[[_Results], str]


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
    for figure in FIGURES:
        value = figure.value(results)
        detail = figure.detail(results) if value else ""
        lines.append(f"| {figure.label} | {value or NOT_MEASURED} | {detail} | {figure.goal} |")
    captions = " whose captions were held out, too" if config["strict"] else ""
    model, engine = results["model"], results["engine"]
    checker = _row(results, "checker")
    also = f" ({checker['n']} for the checkers)" if checker else ""
    lines += [
        "",
        f"{config['split'].capitalize()} combinations{captions}, n = {config['num_items']} a row"
        f"{also}, seed {config['seed']}, greedy; intervals from a bootstrap over (thing, color) "
        f"pairs. Model `{model['name']}` `{model['sha256'][:12]}`, {engine['device']} "
        f"{engine['dtype']}, torch {results['versions']['torch']}. `anyany evaluate` prints it.",
    ]
    return "\n".join(lines)


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


def _row(results: _Results, name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = results["rows"].get(name)
    return found


def _lowest(results: _Results) -> str | None:
    row = _row(results, "checker")
    return None if row is None else percent(min(row["attributes"].values()))


def _lowest_name(results: _Results) -> str:
    attributes = results["rows"]["checker"]["attributes"]
    lowest = min(attributes, key=lambda name: attributes[name])
    return f"lowest: {lowest}; all right {percent(results['rows']['checker']['all'])}"


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


FIGURES: Final[tuple[Figure, ...]] = (
    Figure("checkers on true renders, lowest attribute", "99.5% / 99%", _lowest, _lowest_name),
    Figure(
        "true pictures after the VAE round trip, attribute mean / all right",
        "99% of attributes",
        _mean_and_all("vae"),
        _spread("vae"),
    ),
    Figure(
        "text → image with the decoder's own text encoder (the ceiling), attribute mean / all "
        "right",
        "98% / 90%; floor 93% / 70%",
        _mean_and_all("direct"),
        _spread("direct"),
    ),
    Figure(
        "text → image through the whole chain, all right, as a ratio to that ceiling",
        "0.98 / 0.90",
        _ratio("chain / direct"),
        _ratio_spread("chain / direct"),
    ),
    Figure(
        'likewise, the decoder told the reply\'s words (`condition="caption"`)',
        "",
        _ratio("caption / direct"),
        _ratio_spread("caption / direct"),
    ),
    Figure("image → text, all right", "97% / 90%", _all("describe"), _spread("describe")),
    Figure(
        "image + text → image, the asked attribute changed and the others kept",
        "85% / 70%",
        _all("edit"),
        _spread("edit"),
    ),
    Figure(
        "shipped preset less the reference preset, all right, same captions and noise",
        "within 1 point",
        _points,
        _points_spread,
    ),
)
