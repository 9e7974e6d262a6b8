"""What sounds in the pocket world: which thing, how often, how high; in words and back.

A sound names every attribute of one recording. All 48 are seeded, renderable (`pocket.synthesis`),
sayable (here) and checkable (`pocket.check_sound`). The parser scores what a model writes: two
values for one attribute make a text unparsable.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from anyany.pocket.captions import SOUND_VERBS, SOUND_WORDS, WORDS
from anyany.pocket.world import COUNTS, PITCHES, THINGS, Described

SOUND_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "thing": THINGS,
    "count": COUNTS,
    "pitch": PITCHES,
}

# No recording of these (thing, count, pitch) triples is used in any training: each thing once, all
# six (count, pitch) pairs among them. Their captions may appear as text.
HELD_OUT_SOUNDS: Final = frozenset(
    (thing, COUNTS[index % 3], PITCHES[index // 3 % 2]) for index, thing in enumerate(THINGS)
)
_WORDS: Final = {"thing": WORDS["thing"], **SOUND_WORDS}
_VALUE_OF: Final = {
    **{
        word: (attribute, value)
        for attribute, values in _WORDS.items()
        for value, words in values.items()
        for word in words
    },
    **{verb: ("thing", thing) for thing, verbs in SOUND_VERBS.items() for verb in verbs},
}


@dataclass(frozen=True)
class Sound(Described):
    """One recording's attributes; None means "not said" (in a prompt), never in a full sound."""

    ATTRIBUTES: ClassVar[Mapping[str, tuple[str, ...]]] = SOUND_ATTRIBUTES

    thing: str | None = None
    count: str | None = None
    pitch: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether no training may play a recording of it."""
        return (self.thing, self.count, self.pitch) in HELD_OUT_SOUNDS


def all_sounds(*, held_out: bool | None = None) -> list[Sound]:
    """Every full sound in a fixed order."""
    sounds = [Sound(t, count, pitch) for t in THINGS for count in COUNTS for pitch in PITCHES]
    return [sound for sound in sounds if held_out is None or sound.held_out == held_out]


def draw_sound(rng: random.Random, *, held_out: bool | None = False) -> Sound:
    """Draw a full sound.

    Args:
        rng: the source of chance.
        held_out: False for the trainable ones, True for the held-out ones, None for any.
    """
    while True:
        sound = Sound(**{name: rng.choice(values) for name, values in SOUND_ATTRIBUTES.items()})
        if held_out is None or sound.held_out == held_out:
            return sound


def complete_sound(sound: Sound, rng: random.Random, *, held_out: bool | None = False) -> Sound:
    """Draw what a sound leaves unsaid.

    Raises:
        ValueError: what it says allows no such completion.
    """
    for _ in range(10_000):
        drawn = replace(draw_sound(rng, held_out=None), **sound.said())
        if held_out is None or drawn.held_out == held_out:
            return drawn
    raise ValueError(
        f"expected a sound that can be completed with held_out={held_out}; got {sound}"
    )


def draw_partial_sound(sound: Sound, rng: random.Random) -> Sound:
    """Leave some attributes unsaid, as people do; mostly the thing is kept."""
    if rng.random() < 0.5:
        return sound
    kept = [name for name in SOUND_ATTRIBUTES if rng.random() < 0.5]
    if "thing" not in kept and (not kept or rng.random() < 0.8):
        kept.append("thing")
    return sound.only(kept)


def canonical_sound_caption(sound: Sound) -> str:
    """The one way in which a model is taught to say a sound (or a part of one).

    "the sound of a bell, twice, high"
    """
    pieces = [f"the sound of a {sound.thing or 'thing'}", sound.count, sound.pitch]
    return ", ".join(piece for piece in pieces if piece)


def sound_caption(sound: Sound, rng: random.Random) -> str:
    """One of many ways to say what a sound says: order, synonyms, verbs, terse or long."""
    thing = _word("thing", sound.thing, rng) if sound.thing else "thing"
    pitch = _word("pitch", sound.pitch, rng) if sound.pitch else ""
    times = _word("count", sound.count, rng) if sound.count else ""
    times = f"{times} times" if times in ("two", "three") else times
    does, doing = SOUND_VERBS.get(sound.thing or "", ("sounds", "sounding"))
    style = rng.randrange(6)
    if style == 0:  # terse
        pieces = [thing, times, pitch]
        if rng.random() < 0.5:
            pieces = [f"{pitch} {thing}".strip(), times]
        text = ", ".join(piece for piece in pieces if piece)
        return text if sound.count or sound.pitch else f"{text} sound"
    if style == 1:
        return _listed(f"a {thing} {doing} {times}".strip(), pitch and f"{pitch} pitched")
    if style == 2:
        return _listed(f"a {thing} {does} {times}".strip(), pitch and f"with a {pitch} pitch")
    if style == 3:
        noun = rng.choice(("sound", "noise", "recording"))
        return _listed(f"a {pitch} {noun} of a {thing}".replace("  ", " "), times)
    if style == 4:
        return _listed(f"a {pitch} {thing} {doing}".replace("  ", " "), times)
    return _listed(times, f"the {thing} {does}", pitch and f"{pitch} pitch")


def parse_sound(text: str) -> Sound | None:
    """The attributes that a text names; None if it names two values of one attribute."""
    said: dict[str, str] = {}
    for token in re.findall(r"[a-z]+", text.lower()):
        attribute, value = _VALUE_OF.get(token, (None, ""))
        if attribute is not None and said.setdefault(attribute, value) != value:
            return None
    return Sound(**said)


def sound_attributes_right(text: str, sound: Sound) -> dict[str, bool]:
    """Per attribute that the sound says, whether the text says the same."""
    parsed = parse_sound(text)
    return {
        name: parsed is not None and getattr(parsed, name) == value
        for name, value in sound.said().items()
    }


def _word(attribute: str, value: str, rng: random.Random) -> str:
    """Mostly the canonical word, now and then any of its synonyms."""
    words = _WORDS[attribute][value]
    return rng.choice(words) if rng.random() < 0.4 else words[0]


def _listed(*pieces: str) -> str:
    return ", ".join(piece for piece in pieces if piece)
