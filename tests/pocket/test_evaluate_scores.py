"""Shares, intervals and ratios, against plain loops."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anyany.pocket.clips import Clip
from anyany.pocket.evaluate_scores import (
    RESAMPLES,
    Item,
    Row,
    compare_difference,
    compare_ratio,
    confusion,
    share_interval,
    summarize,
)
from anyany.pocket.sounds import Sound
from anyany.pocket.world import Scene

PAIRS = (("bell", "red"), ("drum", "blue"), ("bee", "cyan"))
WRONG = {"red": "blue", "blue": "cyan", "cyan": "red"}


def _item(pair: tuple[str, ...], right: bool, group: str = "") -> Item:
    thing, color = pair
    truth = Scene(thing, color, "small", "left", "white")
    seen = truth if right else truth.changed("color", WRONG[color])
    return Item(truth, seen, pair, group)


def _items(flags: dict[tuple[str, str], list[bool]]) -> list[Item]:
    return [_item(pair, flag) for pair, own in flags.items() for flag in own]


def _random_items(seed: int, share: float) -> list[Item]:
    rng = random.Random(seed)
    return _items({pair: [rng.random() < share for _ in range(20)] for pair in PAIRS})


def test_an_item_is_right_attribute_by_attribute() -> None:
    item = _item(PAIRS[0], right=False)
    assert item.right == {
        "thing": True,
        "color": False,
        "size": True,
        "place": True,
        "background": True,
    }
    assert not item.all_right
    assert _item(PAIRS[0], right=True).all_right
    assert not Item(Scene(), Scene(), PAIRS[0]).all_right


def test_a_row_sums_up_per_attribute_pair_and_group() -> None:
    items = [
        _item(PAIRS[0], True, "a"),
        _item(PAIRS[0], False, "b"),
        _item(PAIRS[1], False, "a"),
        _item(PAIRS[1], False, "b"),
    ]
    summary = summarize(Row("x", "title", tuple(items), 1.5, "note", {"extra": 0.5}))
    assert summary["n"] == 4
    assert summary["all"] == 0.25
    assert summary["attributes"] == {
        "thing": 1.0,
        "color": 0.25,
        "size": 1.0,
        "place": 1.0,
        "background": 1.0,
    }
    assert summary["attribute_mean"] == pytest.approx(0.85)
    assert summary["worst_pair"] == {"pair": "blue drum", "n": 2, "all": 0.0}
    assert summary["pairs"]["red bell"] == {"n": 2, "all": 0.5}
    assert summary["groups"] == {"a": {"n": 2, "all": 0.5}, "b": {"n": 2, "all": 0.0}}
    assert summary["extras"] == {"extra": 0.5}
    assert summary["confusion"]["color"] == {"red": {"red": 1, "blue": 1}, "blue": {"cyan": 2}}


def test_confusion_names_what_could_not_be_told() -> None:
    truth = Scene("bell", "red")
    items = [Item(truth, Scene("drum"), PAIRS[0]), Item(truth, truth, PAIRS[0])]
    assert confusion(items, "color") == {"red": {"?": 1, "red": 1}}
    assert confusion(items, "thing") == {"bell": {"drum": 1, "bell": 1}}
    assert confusion(items, "size") == {}


def test_the_interval_is_that_of_a_plain_bootstrap_over_pairs() -> None:
    items = _items({PAIRS[0]: [True] * 20, PAIRS[1]: [True, False] * 10, PAIRS[2]: [False] * 20})
    rng = random.Random(1)
    shares = {PAIRS[0]: 1.0, PAIRS[1]: 0.5, PAIRS[2]: 0.0}
    drawn = [np.mean([shares[rng.choice(PAIRS)] for _ in PAIRS]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert share_interval(items) == pytest.approx((low, high), abs=0.02)
    same = _items({pair: [True, False] for pair in PAIRS})
    assert share_interval(same) == (0.5, 0.5)  # pairs that agree leave no doubt between pairs
    assert share_interval(items) == share_interval(items)


def test_a_ratio_is_paired() -> None:
    base = _random_items(0, 0.7)
    assert compare_ratio(base, base) == {
        "value": 1.0,
        "interval": [1.0, 1.0],
        "all": pytest.approx(sum(i.all_right for i in base) / 60),
        "base_all": pytest.approx(sum(i.all_right for i in base) / 60),
        "n": 60,
    }
    half = [_item(item.pair, item.all_right and index % 2 == 0) for index, item in enumerate(base)]
    found = compare_ratio(half, base)
    right = sum(i.all_right for i in half)
    assert found["value"] == pytest.approx(right / sum(i.all_right for i in base))
    low, high = found["interval"]
    assert low <= found["value"] <= high


def test_a_ratio_to_nothing_is_undefined() -> None:
    nothing = _items({pair: [False] * 4 for pair in PAIRS})
    found = compare_ratio(_items({pair: [True] * 4 for pair in PAIRS}), nothing)
    assert found["value"] is None
    assert found["interval"] is None


def test_a_difference_is_in_shares() -> None:
    one, other = _random_items(0, 0.9), _random_items(1, 0.5)
    found = compare_difference(one, other)
    expected = (sum(i.all_right for i in one) - sum(i.all_right for i in other)) / 60
    assert found["value"] == pytest.approx(expected)
    assert found["interval"][0] <= expected <= found["interval"][1]


def test_rows_of_other_cases_are_not_compared() -> None:
    with pytest.raises(ValueError, match="the same cases"):
        compare_ratio(_random_items(0, 0.5), _random_items(0, 0.5)[:-1])


def test_an_item_is_plain_values() -> None:
    item = Item(Scene("bell", "red"), Scene("bell"), PAIRS[0], "g", "draw", "here")
    assert item.to_dict() == {
        "pair": "red bell",
        "group": "g",
        "truth": {"thing": "bell", "color": "red"},
        "seen": {"thing": "bell"},
        "all_right": False,
        "prompt": "draw",
        "reply": "here",
    }


def test_only_what_is_needed_decides_whether_an_item_is_right() -> None:
    truth = Clip("bell", "red", "white", "left")
    seen = truth.changed("background", "pink")
    needed = ("thing", "color", "motion")
    right = Item(truth, seen, ("bell", "left"), needed=needed)
    assert right.all_right
    assert not Item(truth, seen, ("bell", "left")).all_right
    assert not Item(truth, truth.changed("motion", "up"), ("bell", "left"), needed=needed).all_right
    summary = summarize(Row("x", "title", (right,), 0.0))
    assert summary["all"] == 1.0
    assert summary["attributes"]["background"] == 0.0
    assert summary["worst_pair"]["pair"] == "bell left"


def test_attributes_that_no_truth_says_are_not_summed_up() -> None:
    items = (Item(Sound("bell"), Sound("bell", "once", "low"), ("bell", "red")),)
    summary = summarize(Row("x", "title", items, 0.0))
    assert summary["attributes"] == {"thing": 1.0}
    assert summary["attribute_mean"] == 1.0
    assert list(summary["confusion"]) == ["thing"]
