"""Conversations: edits change one attribute, answers are true, the language is clean."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from anyany.pocket.captions import parse_caption
from anyany.pocket.dialogues import (
    ASK_ATTRIBUTE,
    EDIT_SIZE,
    EDITS,
    answer_attribute,
    draw_dialogue,
    draw_edit,
    edit_request,
)
from anyany.pocket.world import ATTRIBUTES, Scene, draw_scene


def test_an_edit_changes_exactly_one_attribute() -> None:
    rng = random.Random(0)
    changed: Counter[str] = Counter()
    for _ in range(4000):
        before = draw_scene(rng, held_out=None)
        _, after = draw_edit(before, rng, held_out=None)
        names = [n for n in ATTRIBUTES if getattr(before, n) != getattr(after, n)]
        assert len(names) == 1
        changed.update(names)
    assert set(changed) == set(ATTRIBUTES)
    assert min(changed.values()) > 400


@pytest.mark.parametrize("held_out", [True, False])
def test_an_edit_obeys_the_split(held_out: bool) -> None:
    rng = random.Random(0)
    for _ in range(1000):
        before = draw_scene(rng, held_out=held_out)
        assert draw_edit(before, rng, held_out=held_out)[1].held_out == held_out


def test_a_request_names_the_new_value_and_no_other() -> None:
    rng = random.Random(0)
    for name, values in ATTRIBUTES.items():
        for value in values:
            for _ in range(40):
                request = edit_request(name, value, rng)
                if name == "size":
                    assert request in EDIT_SIZE[value]
                else:
                    assert parse_caption(request) == Scene(**{name: value}), request


def test_every_way_to_ask_for_an_edit_is_reached() -> None:
    rng = random.Random(0)
    requests = {edit_request("place", "left", rng) for _ in range(300)}
    assert len(requests) == len(EDITS["place"])


def test_the_language_has_no_doubled_words() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        for turn in draw_dialogue(rng, held_out=None):
            for item in (*turn.question, *turn.answer):
                if isinstance(item, str):
                    assert not re.search(r"\b(\w+) \1\b", item), item
                    assert "{" not in item
                    assert item == " ".join(item.split())


def test_answers_are_true() -> None:
    rng = random.Random(0)
    for _ in range(300):
        scene = draw_scene(rng, held_out=None)
        for name in ATTRIBUTES:
            said = parse_caption(answer_attribute(scene, name))
            assert said == Scene(**{name: getattr(scene, name)})
    assert set(ASK_ATTRIBUTE) == set(ATTRIBUTES)


def test_a_drawn_picture_is_what_the_reply_says() -> None:
    rng = random.Random(0)
    drawn = 0
    for _ in range(2000):
        for turn in draw_dialogue(rng, held_out=None):
            scenes = [item for item in turn.answer if isinstance(item, Scene)]
            words = " ".join(item for item in turn.answer if isinstance(item, str))
            for scene in scenes:
                drawn += 1
                assert parse_caption(words) == scene
    assert drawn > 1000


def test_conversations_obey_both_splits_and_their_length() -> None:
    rng = random.Random(0)
    said = shown = 0
    for _ in range(2000):
        turns = draw_dialogue(rng, max_turns=3, held_out=None, shown_held_out=False)
        assert 1 <= len(turns) <= 3
        for turn in turns:
            for item in turn.question:
                if isinstance(item, Scene):
                    shown += 1
                    assert item.full
                    assert not item.held_out
            said += sum(isinstance(item, Scene) and item.held_out for item in turn.answer)
    assert shown > 500
    assert said > 50  # words may speak of held-out scenes
    for _ in range(500):
        for turn in draw_dialogue(rng, held_out=False):
            for item in (*turn.question, *turn.answer):
                assert not (isinstance(item, Scene) and item.held_out)


def test_conversations_follow_from_the_source_of_chance() -> None:
    assert draw_dialogue(random.Random(9)) == draw_dialogue(random.Random(9))
    assert draw_dialogue(random.Random(9)) != draw_dialogue(random.Random(10))
