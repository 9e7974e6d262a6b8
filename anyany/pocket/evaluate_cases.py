"""What an evaluation asks: subjects balanced over their combinations, captions, questions, edits.

All of it follows from the seed alone, so two systems (or two ways through one) meet the very same
cases. The world's rules decide what is held out: a picture by its (thing, color) pair, a clip by
that or by (thing, motion), a sound by (thing, count, pitch).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from anyany.pocket.clips import Clip
from anyany.pocket.dialogues import edit_request
from anyany.pocket.evaluate_kinds import (
    KINDS,
    Combination,
    Kind,
    Medium,
    combination_of,
    kind_of,
)
from anyany.pocket.media_dialogues import TO_CLIP, TO_CLIP_SIZE, TO_PICTURE, TO_SOUND
from anyany.pocket.world import ATTRIBUTES, MOTIONS, Described

Split: TypeAlias = Literal["held-out", "seen"]
SPLITS: Final[tuple[Split, ...]] = ("held-out", "seen")
_HELD_OUT: Final[dict[Split | None, bool | None]] = {"held-out": True, "seen": False, None: None}
_SEED_STRIDE: Final = 1_000_003  # between the noise of runs with neighbouring seeds
_SHOWN_FIRST: Final = 0.7  # so often the medium stands before the words


@dataclass(frozen=True, eq=False)
class Case:
    """One thing that is asked of a system.

    Args:
        source: what the case was drawn for, of the split; what a shown medium shows.
        target: what a made medium should show or sound like, or what a text should say.
        words: a caption, a question or a request.
        group: a further division: the caption's style, the edited attribute, the motion.
        seed: of the noise.
        shown: a medium of the source that goes with the words, if any.
        shown_first: whether it stands before them.
    """

    source: Described
    target: Described
    words: str
    group: str = ""
    seed: int = 0
    shown: Medium = None
    shown_first: bool = False

    @property
    def combination(self) -> Combination:
        """That of the source."""
        return combination_of(self.source)

    def prompt(self) -> list[object]:
        """The words beside the shown medium, as a request takes them."""
        if self.shown is None:
            return [self.words]
        part = kind_of(self.source).part(self.shown)
        return [part, self.words] if self.shown_first else [self.words, part]


def balanced(kind: Kind, number: int, split: Split | None, rng: random.Random) -> Iterator[Any]:
    """Full subjects: the split's combinations in turn, those of each in shuffled rounds.

    Args:
        kind: of media.
        number: of subjects.
        split: "held-out", "seen" or None for the whole world.
        rng: shuffles.
    """
    subjects: dict[Combination, list[Any]] = {}
    for subject in kind.subjects(held_out=_HELD_OUT[split]):
        subjects.setdefault(kind.combination(subject), []).append(subject)
    decks: dict[Combination, list[Any]] = {combination: [] for combination in subjects}
    order = list(subjects)
    for index in range(number):
        own = order[index % len(order)]
        decks[own] = decks[own] or rng.sample(subjects[own], len(subjects[own]))
        yield decks[own].pop()


def true_media(
    kind: Kind, number: int, split: Split | None, seed: int
) -> Iterator[tuple[Any, Medium]]:
    """Rendered subjects, jittered as the training's are."""
    rng = _stream(kind, "true", seed)
    for subject in balanced(kind, number, split, rng):
        yield subject, kind.render(subject, rng)


def draw_cases(kind: Kind, number: int, split: Split, seed: int) -> list[Case]:
    """Captions to make media from: half of every combination's canonical, half varied."""
    rng = _stream(kind, "draw", seed)
    cases = []
    seen: dict[Combination, int] = {}
    for index, subject in enumerate(balanced(kind, number, split, rng)):
        own = kind.combination(subject)
        seen[own] = seen.get(own, 0) + 1
        canonical = seen[own] % 2 == 1
        said = kind.canonical(subject) if canonical else kind.caption(subject, rng)
        style = "canonical" if canonical else "varied"
        cases.append(Case(subject, subject, said, style, noise_seed(seed, index)))
    return cases


def describe_cases(kind: Kind, number: int, split: Split, seed: int) -> list[Case]:
    """Media to describe, asked for in every way that the world knows."""
    rng = _stream(kind, "describe", seed)
    return [
        Case(
            subject,
            subject,
            shown=kind.render(subject, rng),
            words=rng.choice(kind.questions),
            shown_first=rng.random() < _SHOWN_FIRST,
        )
        for subject in balanced(kind, number, split, rng)
    ]


def edit_cases(number: int, split: Split, seed: int) -> list[Case]:
    """Pictures to change: the five attributes in turn, each to any other of its values."""
    kind = KINDS["image"]
    rng = _stream(kind, "edit", seed)
    names = list(ATTRIBUTES)
    num_pairs = _num_combinations(kind, split)
    cases = []
    for index, source in enumerate(balanced(kind, number, split, rng)):
        attribute = names[(index + index // num_pairs) % len(names)]  # every pair meets all five
        before = getattr(source, attribute)
        value = rng.choice([other for other in ATTRIBUTES[attribute] if other != before])
        cases.append(
            Case(
                source,
                source.changed(attribute, value),
                group=attribute,
                shown=kind.render(source, rng),
                words=edit_request(attribute, value, rng),
                shown_first=rng.random() < _SHOWN_FIRST,
                seed=noise_seed(seed, index),
            )
        )
    return cases


def turn_cases(shown: Kind, made: Kind, number: int, split: Split, seed: int) -> list[Case]:
    """Media whose thing is asked for in another medium; for clips, in the six motions in turn.

    Args:
        shown: kind of the shown media, whose combinations are of the split.
        made: kind of the wanted media.
        number: of cases.
        split: "held-out" or "seen".
        seed: of the cases and their noise.
    """
    rng = random.Random(f"evaluate:{shown.modality}-to-{made.modality}:{seed}")
    num_combinations = _num_combinations(shown, split)
    cases = []
    for index, source in enumerate(balanced(shown, number, split, rng)):
        place = index // num_combinations + index % num_combinations
        motion = MOTIONS[place % len(MOTIONS)] if made.modality == "video" else ""
        cases.append(
            Case(
                source,
                _turned(source, made, motion),
                group=motion,
                shown=shown.render(source, rng),
                words=_turn_request(made, motion, rng),
                shown_first=rng.random() < _SHOWN_FIRST,
                seed=noise_seed(seed, index),
            )
        )
    return cases


def noise_seed(seed: int, index: int) -> int:
    """The request seed of a case: every row gives the case of one number the same noise."""
    return seed * _SEED_STRIDE + index


def _turned(source: Any, made: Kind, motion: str) -> Described:
    """What is known of a thing in another medium: itself; in a clip its looks, too."""
    if motion:
        return Clip(source.thing, source.color, source.background, motion)
    return made.subject(thing=source.thing)  # type: ignore[call-arg]


def _turn_request(made: Kind, motion: str, rng: random.Random) -> str:
    if motion:
        return rng.choice(TO_CLIP_SIZE if motion.endswith("ing") else TO_CLIP).format(motion)
    return rng.choice(TO_SOUND if made.modality == "audio" else TO_PICTURE)


def _num_combinations(kind: Kind, split: Split) -> int:
    return len({kind.combination(one) for one in kind.subjects(held_out=_HELD_OUT[split])})


def _stream(kind: Kind, purpose: str, seed: int) -> random.Random:
    """The chance of one row's cases: pictures' streams have the plain names."""
    own = "" if kind.modality == "image" else f"{kind.modality}:"
    return random.Random(f"evaluate:{purpose}:{own}{seed}")
