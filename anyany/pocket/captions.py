"""Scenes to words and back: a small English grammar with synonyms, and its inverse.

The parser scores what a model writes: two values for one attribute make a text unparsable.
"""

from __future__ import annotations

import random
import re
from typing import Final

from anyany.pocket.world import ATTRIBUTES, Scene

# The first word of each list is the canonical one. No word stands for two values.
WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "thing": {
        "bell": ("bell",),
        "drum": ("drum",),
        "bird": ("bird",),
        "bee": ("bee",),
        "siren": ("siren",),
        "clock": ("clock",),
        "horn": ("horn", "trumpet"),
        "cloud": ("cloud",),
    },
    "color": {
        "red": ("red", "crimson"),
        "yellow": ("yellow",),
        "green": ("green",),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue",),
        "purple": ("purple", "violet"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "place": {
        "left": ("left",),
        "right": ("right",),
        "top": ("top",),
        "bottom": ("bottom",),
        "center": ("center", "middle", "centre"),
    },
    "background": {
        "white": ("white",),
        "gray": ("gray", "grey"),
        "beige": ("beige", "sandy"),
        "pink": ("pink",),
    },
}
CLIP_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "motion": {
        "left": ("left", "leftwards"),
        "right": ("right", "rightwards"),
        "up": ("up", "upwards", "rising"),
        "down": ("down", "downwards", "falling"),
        "growing": ("growing", "expanding"),
        "shrinking": ("shrinking", "contracting"),
    },
}
SOUND_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "count": {"once": ("once",), "twice": ("twice", "two"), "thrice": ("thrice", "three")},
    "pitch": {"high": ("high",), "low": ("low", "deep")},
}
# What each thing does when it sounds: it rings; a ringing bell.
SOUND_VERBS: Final[dict[str, tuple[str, str]]] = {
    "bell": ("rings", "ringing"),
    "drum": ("thumps", "thumping"),
    "bird": ("chirps", "chirping"),
    "bee": ("buzzes", "buzzing"),
    "siren": ("wails", "wailing"),
    "clock": ("ticks", "ticking"),
    "horn": ("blasts", "blasting"),
    "cloud": ("rains", "raining"),
}
# Words of requests about clips and sounds, for the tokenizer.
MEDIA_WORDS: Final = (
    "picture",
    "image",
    "video",
    "clip",
    "movie",
    "animate",
    "move",
    "moves",
    "moving",
    "motion",
    "film",
    "play",
    "hear",
    "listen",
    "sound",
    "sounds",
    "noise",
    "audio",
    "recording",
    "record",
    "pitch",
    "pitched",
    "times",
    "again",
    "look",
    "looks",
    "like",
)
PREPOSITION: Final = {
    "left": "on the",
    "right": "on the",
    "top": "at the",
    "bottom": "at the",
    "center": "in the",
}
_VALUE_OF: Final = {
    word: (attribute, value)
    for attribute, values in WORDS.items()
    for value, words in values.items()
    for word in words
}


def canonical_caption(scene: Scene) -> str:
    """The one way in which a model is taught to say a scene (or a part of one).

    "a small red bell on the left on a white background"
    """
    words = [scene.size, scene.color, scene.thing or "thing"]
    text = "a " + " ".join(word for word in words if word)
    if scene.place:
        text += f" {PREPOSITION[scene.place]} {scene.place}"
    if scene.background:
        text += f" on a {scene.background} background"
    return text


def caption(scene: Scene, rng: random.Random) -> str:
    """One of many ways to say what a scene says: order, synonyms, terse or long."""
    word = {
        name: rng.choice(WORDS[name][value]) if rng.random() < 0.4 else WORDS[name][value][0]
        for name, value in scene.said().items()
    }
    noun = " ".join(word[name] for name in ("size", "color", "thing") if name in word)
    noun = noun if "thing" in word else f"{noun} thing".strip()
    place, background = word.get("place"), word.get("background")
    where = f"{PREPOSITION[scene.place]} {place}" if scene.place and place else ""
    style = rng.randrange(5)
    if style == 0:  # terse
        return ", ".join(
            piece for piece in (noun, place, background and f"{background} background") if piece
        )
    if style == 1:
        return _joined(f"a {noun}", where, background and f"on a {background} background")
    if style == 2:
        return _joined(f"the {noun}", where, background and f"with a {background} background")
    if style == 3 and background:
        return _joined(f"a {background} background with a {noun}", where)
    return _joined(where and f"{where},", f"a {noun}", background and f"on {background}")


def parse_caption(text: str) -> Scene | None:
    """The attributes that a text names; None if it names two values of one attribute."""
    said: dict[str, str] = {}
    for token in re.findall(r"[a-z]+", text.lower()):
        attribute, value = _VALUE_OF.get(token, (None, ""))
        if attribute is not None and said.setdefault(attribute, value) != value:
            return None
    return Scene(**said)


def attributes_right(text: str, scene: Scene) -> dict[str, bool]:
    """Per attribute that the scene says, whether the text says the same."""
    parsed = parse_caption(text)
    return {
        name: parsed is not None and getattr(parsed, name) == value
        for name, value in scene.said().items()
    }


def draw_partial(scene: Scene, rng: random.Random) -> Scene:
    """Leave some attributes unsaid, as people do; the thing or the color is kept."""
    if rng.random() < 0.5:
        return scene
    kept = [name for name in ATTRIBUTES if rng.random() < 0.55]
    if "thing" not in kept and (rng.random() < 0.9 or "color" not in kept):
        kept.append("thing")
    return scene.only(kept)


def _joined(*pieces: str | None) -> str:
    return " ".join(piece for piece in pieces if piece)
