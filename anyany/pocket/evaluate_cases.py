"""What an evaluation asks: scenes balanced over their pairs, captions, questions and edits.

All of it follows from the seed alone, so two systems (or two ways through one) meet the very same
cases. The world's rule decides what is held out: a picture by its (thing, color) pair.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from PIL import Image

from anyany.pocket.captions import canonical_caption, caption
from anyany.pocket.dialogues import ASK_WHAT, edit_request
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.world import ATTRIBUTES, Scene, all_scenes

Split: TypeAlias = Literal["held-out", "seen"]
SPLITS: Final[tuple[Split, ...]] = ("held-out", "seen")
_HELD_OUT: Final[dict[Split | None, bool | None]] = {"held-out": True, "seen": False, None: None}
_SEED_STRIDE: Final = 1_000_003  # between the noise of runs with neighbouring seeds


@dataclass(frozen=True)
class DrawCase:
    """A picture to be drawn from words.

    Args:
        scene: what it should show.
        caption: the words, all five attributes said.
        style: "canonical", or "varied" by synonyms, order and terseness.
        seed: of the noise.
    """

    scene: Scene
    caption: str
    style: str
    seed: int


@dataclass(frozen=True, eq=False)
class DescribeCase:
    """A picture to be described.

    Args:
        scene: what it shows.
        picture: it.
        question: asks for a description.
        picture_first: whether it stands before the question.
    """

    scene: Scene
    picture: Image.Image
    question: str
    picture_first: bool


@dataclass(frozen=True, eq=False)
class EditCase:
    """A picture to be changed in one attribute.

    Args:
        source: what the shown picture shows; its pair is of the split.
        target: what the new picture should show; any scene one attribute away.
        attribute: that changes.
        picture: the shown picture.
        request: asks for the change.
        picture_first: whether the picture stands before the request.
        seed: of the noise.
    """

    source: Scene
    target: Scene
    attribute: str
    picture: Image.Image
    request: str
    picture_first: bool
    seed: int


def pair_of(scene: Scene) -> tuple[str, str]:
    """(thing, color) of a full scene."""
    assert scene.thing
    assert scene.color
    return scene.thing, scene.color


def balanced_scenes(number: int, split: Split | None, rng: random.Random) -> Iterator[Scene]:
    """Full scenes: the split's pairs in turn, the scenes of each in shuffled rounds.

    Args:
        number: of scenes.
        split: "held-out", "seen" or None for the whole world.
        rng: shuffles.
    """
    scenes: dict[tuple[str, str], list[Scene]] = {}
    for scene in all_scenes(held_out=_HELD_OUT[split]):
        scenes.setdefault(pair_of(scene), []).append(scene)
    decks: dict[tuple[str, str], list[Scene]] = {pair: [] for pair in scenes}
    order = list(scenes)
    for index in range(number):
        pair = order[index % len(order)]
        decks[pair] = decks[pair] or rng.sample(scenes[pair], len(scenes[pair]))
        yield decks[pair].pop()


def true_pictures(number: int, split: Split | None, seed: int) -> list[tuple[Scene, Image.Image]]:
    """Rendered scenes, jittered as the training's are."""
    rng = random.Random(f"evaluate:true:{seed}")
    scenes = balanced_scenes(number, split, rng)
    return [(scene, render_image(scene, Jitter.draw(rng))) for scene in scenes]


def draw_cases(number: int, split: Split, seed: int) -> list[DrawCase]:
    """Captions to draw from: half of every pair's canonical, half varied."""
    rng = random.Random(f"evaluate:draw:{seed}")
    cases = []
    seen: dict[tuple[str, str], int] = {}
    for index, scene in enumerate(balanced_scenes(number, split, rng)):
        pair = pair_of(scene)
        seen[pair] = seen.get(pair, 0) + 1
        canonical = seen[pair] % 2 == 1
        said = canonical_caption(scene) if canonical else caption(scene, rng)
        style = "canonical" if canonical else "varied"
        cases.append(DrawCase(scene, said, style, noise_seed(seed, index)))
    return cases


def describe_cases(number: int, split: Split, seed: int) -> list[DescribeCase]:
    """Pictures to describe, asked for in every way that the world knows."""
    rng = random.Random(f"evaluate:describe:{seed}")
    return [
        DescribeCase(
            scene, render_image(scene, Jitter.draw(rng)), rng.choice(ASK_WHAT), rng.random() < 0.7
        )
        for scene in balanced_scenes(number, split, rng)
    ]


def edit_cases(number: int, split: Split, seed: int) -> list[EditCase]:
    """Pictures to change: the five attributes in turn, each to any other of its values."""
    rng = random.Random(f"evaluate:edit:{seed}")
    names = list(ATTRIBUTES)
    num_pairs = len({pair_of(scene) for scene in all_scenes(held_out=_HELD_OUT[split])})
    cases = []
    for index, source in enumerate(balanced_scenes(number, split, rng)):
        attribute = names[(index + index // num_pairs) % len(names)]  # every pair meets all five
        before = getattr(source, attribute)
        value = rng.choice([other for other in ATTRIBUTES[attribute] if other != before])
        cases.append(
            EditCase(
                source,
                source.changed(attribute, value),
                attribute,
                render_image(source, Jitter.draw(rng)),
                edit_request(attribute, value, rng),
                rng.random() < 0.7,
                noise_seed(seed, index),
            )
        )
    return cases


def noise_seed(seed: int, index: int) -> int:
    """The request seed of a case: every row gives the case of one number the same noise."""
    return seed * _SEED_STRIDE + index
