"""Conversations about pictures, clips and sounds: true answers, held-out rule, every turn kind."""

import random

import pytest

from anyany.messages import AudioPart, ImagePart, VideoPart
from anyany.pocket.captions import parse_caption
from anyany.pocket.clips import Clip, parse_clip
from anyany.pocket.dialogues import ANNOUNCEMENT, Turn
from anyany.pocket.media_dialogues import MediaDialogue, canonical_words, draw_media_dialogue
from anyany.pocket.samples import DescribeSource, DialogueSource, DrawSource
from anyany.pocket.sounds import Sound, parse_sound
from anyany.pocket.world import Scene

PARSE = {Scene: parse_caption, Clip: parse_clip, Sound: parse_sound}


def turns(number: int, **rules: bool | None) -> list[Turn]:
    drawn = [draw_media_dialogue(random.Random(seed), **rules) for seed in range(number)]  # type: ignore[arg-type]
    return [turn for dialogue in drawn for turn in dialogue]


def media(items: tuple[object, ...]) -> list[Scene | Clip | Sound]:
    return [item for item in items if isinstance(item, Scene | Clip | Sound)]


def test_every_medium_made_is_announced_by_its_own_words() -> None:
    for turn in turns(300, held_out=None):
        for place, item in enumerate(turn.answer):
            if isinstance(item, Scene | Clip | Sound):
                words = turn.answer[place - 1]
                assert words == ANNOUNCEMENT.format(canonical_words(item))
                assert PARSE[type(item)](str(words)) == item


def test_all_ways_between_media_are_asked() -> None:
    ways = set()
    shown_alone = set()
    several = set()
    for turn in turns(600, held_out=None):
        shown, made = media(turn.question), media(turn.answer)
        ways |= {(type(one), type(other)) for one in shown for other in made}
        if shown and not made:
            shown_alone.add(type(shown[0]))
        several.add(tuple(type(one) for one in made))

    kinds = (Scene, Clip, Sound)
    changed = {(one, other) for one in kinds for other in kinds if one is not other}
    assert changed | {(Scene, Scene)} == ways
    assert shown_alone == set(kinds)
    assert {(one,) for one in kinds} | changed <= several
    assert any(len(made) == 3 for made in several)


def test_the_held_out_rule_holds_for_what_is_shown_and_for_what_is_made() -> None:
    for turn in turns(400, held_out=None, shown_held_out=False):
        assert not any(one.held_out for one in media(turn.question))
        assert all(one.full for one in media(turn.question))
    made = [one for turn in turns(400, held_out=None) for one in media(turn.answer)]
    assert any(one.held_out for one in made)


def test_the_thing_keeps_its_color_from_medium_to_medium() -> None:
    dialogue = MediaDialogue(random.Random(0), None, None)
    dialogue.subject = Scene("bell", "red", "small", "left", "white")
    for _ in range(20):
        dialogue.switch()
        assert dialogue.subject is not None
        assert dialogue.subject.thing == "bell"
        if isinstance(dialogue.subject, Sound):  # a sound knows no color
            dialogue.subject = Scene("bell", "red", "small", "left", "white")
        else:
            assert dialogue.subject.color == "red"
            assert dialogue.subject.background == "white"


def test_what_is_not_known_of_the_next_medium_the_reply_decides() -> None:
    rng = random.Random(5)
    for _ in range(200):
        dialogue = MediaDialogue(rng, None, None)
        dialogue.several()
        first, *others = media(dialogue.turns[0].answer)
        assert all(one.full and one.thing == first.thing for one in others)


def test_of_no_thing_nothing_is_decided() -> None:
    dialogue = MediaDialogue(random.Random(0), None, None)
    for _ in range(20):
        dialogue.subject = Scene(color="red")
        dialogue.switch()
        assert dialogue.subject.thing is None
        assert not dialogue.subject.full


@pytest.mark.parametrize(
    ("modality", "part"), [("image", ImagePart), ("video", VideoPart), ("audio", AudioPart)]
)
def test_stage_one_shows_every_modality(modality: str, part: type) -> None:
    source = DescribeSource((modality,))  # type: ignore[arg-type]
    sample = source.sample(3, 0)
    assert any(isinstance(one, part) for one in sample.messages[0].parts)
    assert not sample.targets


def test_stage_two_makes_every_modality_from_captions_alone() -> None:
    source = DrawSource(modalities=("image", "video", "audio"))
    targets = [target for n in range(40) for target in source.sample(n, 0).targets.values()]
    assert {target.modality for target in targets} == {"image", "video", "audio"}
    assert all(target.caption for target in targets)


def test_stage_three_switches_between_all_media() -> None:
    source = DialogueSource(all_media=True)
    samples = [source.sample(n, 0) for n in range(60)]
    made = {target.modality for sample in samples for target in sample.targets.values()}
    shown = {
        part.modality
        for sample in samples
        for message in sample.messages
        if message.role == "user"
        for part in message.parts
    }
    assert made == {"image", "video", "audio"}
    assert shown == {"text", "image", "video", "audio"}
