"""What an evaluation counts: items judged per attribute and per combination that is held out.

A combination is a (thing, color) pair of pictures and clips, a (thing, motion) pair of clips, or a
(thing, count, pitch) triple of sounds. Items of one share what is hard about it, so intervals come
from a bootstrap over combinations: whole ones are drawn again with replacement, and the share (or
the ratio of two shares on the same items) is taken anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from anyany.pocket.evaluate_kinds import Combination, Medium, combination_name
from anyany.pocket.world import Described

RESAMPLES: Final = 4000
CONFIDENCE: Final = 0.95
UNKNOWN: Final = "?"  # in a confusion table: the checker or the parser could not tell

Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Item:
    """One judged medium or text.

    Args:
        truth: what it should show, sound like or say.
        seen: what it does; what cannot be told is None.
        pair: the combination that it was made for; for an edit, of its source.
        group: a further division of the row, such as the kind of caption.
        prompt: what was asked.
        reply: what was answered in words.
        shown: the medium in the prompt.
        made: the medium that was made.
        needed: attributes that must be right for the item to be; all of the truth if empty.
    """

    truth: Described
    seen: Described
    pair: Combination
    group: str = ""
    prompt: str = ""
    reply: str = ""
    shown: Medium = None
    made: Medium = None
    needed: Sequence[str] = ()

    @property
    def right(self) -> dict[str, bool]:
        """Per attribute that the truth says, whether it was seen."""
        return {n: getattr(self.seen, n) == value for n, value in self.truth.said().items()}

    @property
    def all_right(self) -> bool:
        """Whether every needed attribute is right (and there is one)."""
        right = self.right
        needed = self.needed or right
        return bool(right) and all(right[name] for name in needed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the media."""
        return {
            "pair": combination_name(self.pair),
            "group": self.group,
            "truth": self.truth.said(),
            "seen": self.seen.said(),
            "all_right": self.all_right,
            "prompt": self.prompt,
            "reply": self.reply,
        }


@dataclass(frozen=True, eq=False)
class Row:
    """All items of one row of the table.

    Args:
        name: of the row.
        title: for people.
        items: judged.
        seconds: that it took.
        note: how the items were made.
        extras: further shares by name.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    seconds: float
    note: str = ""
    extras: Mapping[str, float] = field(default_factory=dict)


def summarize(row: Row) -> dict[str, Any]:
    """A row as plain values: shares per attribute, group and pair, interval, confusions."""
    names = _attributes(row.items)
    per_attribute = {
        name: _share([item.right[name] for item in row.items if name in item.right])
        for name in names
    }
    pairs = {
        combination_name(pair): {"n": len(items), "all": _share([i.all_right for i in items])}
        for pair, items in by_pair(row.items).items()
    }
    worst = min(pairs, key=lambda name: pairs[name]["all"])
    groups: dict[str, list[bool]] = {}
    for item in row.items:
        groups.setdefault(item.group, []).append(item.all_right)
    return {
        "title": row.title,
        "note": row.note,
        "n": len(row.items),
        "attributes": per_attribute,
        "attribute_mean": float(np.mean(list(per_attribute.values()))),
        "all": _share([item.all_right for item in row.items]),
        "interval": list(share_interval(row.items)),
        "worst_pair": {"pair": worst, **pairs[worst]},
        "pairs": pairs,
        "groups": {
            name: {"n": len(flags), "all": _share(flags)}
            for name, flags in sorted(groups.items())
            if name
        },
        "extras": dict(row.extras),
        "confusion": {name: confusion(row.items, name) for name in names},
        "seconds": round(row.seconds, 2),
    }


def compare_ratio(items: Sequence[Item], base: Sequence[Item]) -> dict[str, Any]:
    """All-right of `items` as a ratio to that of `base`, item by item on the same cases.

    Returns:
        The ratio with its interval (None where nothing of the base is right), and both shares.
    """

    def ratio(sums: _Sums) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(sums.base > 0, sums.right / sums.base, np.nan)

    return _compare(items, base, ratio)


def compare_difference(items: Sequence[Item], base: Sequence[Item]) -> dict[str, Any]:
    """All-right of `items` less that of `base`, on the same cases, with its interval."""
    return _compare(items, base, lambda sums: (sums.right - sums.base) / sums.count)


def share_interval(items: Sequence[Item]) -> Interval:
    """Interval of the share of items that are all right."""
    sums = _resample(items, items)
    return _percentiles(sums.right / sums.count) or (0.0, 0.0)


def by_pair(items: Sequence[Item]) -> dict[Combination, list[Item]]:
    """Items by their combination, combinations in order."""
    found: dict[Combination, list[Item]] = {}
    for item in items:
        found.setdefault(item.pair, []).append(item)
    return dict(sorted(found.items()))


def confusion(items: Sequence[Item], attribute: str) -> dict[str, dict[str, int]]:
    """How often each true value of an attribute was seen as each value."""
    table: dict[str, dict[str, int]] = {}
    for item in items:
        truth = getattr(item.truth, attribute)
        if truth is not None:
            seen = getattr(item.seen, attribute) or UNKNOWN
            row = table.setdefault(truth, {})
            row[seen] = row.get(seen, 0) + 1
    values = items[0].truth.ATTRIBUTES[attribute] if items else ()
    return {value: table[value] for value in values if value in table}


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of every resample: items right, items right of the base, and items; [resamples]."""

    right: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    count: npt.NDArray[np.float64]


def _resample(items: Sequence[Item], base: Sequence[Item]) -> _Sums:
    """Draw the combinations again, with replacement, RESAMPLES times."""
    ours, theirs = by_pair(items), by_pair(base)
    assert ours.keys() == theirs.keys(), "both sides were measured on the same cases"
    right = np.array([sum(i.all_right for i in group) for group in ours.values()], dtype=float)
    other = np.array([sum(i.all_right for i in group) for group in theirs.values()], dtype=float)
    count = np.array([len(group) for group in ours.values()], dtype=float)
    drawn = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
    return _Sums(right[drawn].sum(1), other[drawn].sum(1), count[drawn].sum(1))


def _compare(
    items: Sequence[Item],
    base: Sequence[Item],
    statistic: Callable[[_Sums], npt.NDArray[np.float64]],
) -> dict[str, Any]:
    if [item.truth for item in items] != [item.truth for item in base]:
        raise ValueError("expected two rows measured on the same cases, in the same order")
    whole = _Sums(*(np.array([float(n)]) for n in (_count(items), _count(base), len(items))))
    value = float(statistic(whole)[0])
    interval = _percentiles(statistic(_resample(items, base)))
    return {
        "value": None if np.isnan(value) else value,
        "interval": None if np.isnan(value) or interval is None else list(interval),
        "all": _count(items) / len(items),
        "base_all": _count(base) / len(base),
        "n": len(items),
    }


def _percentiles(values: npt.NDArray[np.float64]) -> Interval | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def _attributes(items: Sequence[Item]) -> list[str]:
    """The attributes that some item's truth says."""
    said = {name for item in items for name in item.truth.said()}
    return [name for name in items[0].truth.ATTRIBUTES if name in said] if items else []


def _count(items: Sequence[Item]) -> int:
    return sum(item.all_right for item in items)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
