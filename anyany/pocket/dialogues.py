"""Conversations about pictures, each turn with its true answer.

A turn's content is text and scenes: a (full) scene in a user's turn is a picture shown; a scene in
an assistant's turn is a picture to be drawn, as far as it was said. Edits are asked only where they
change something.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from anyany.pocket.captions import (
    PREPOSITION,
    WORDS,
    canonical_caption,
    caption,
    draw_partial,
)
from anyany.pocket.clips import Clip
from anyany.pocket.sounds import Sound
from anyany.pocket.world import ATTRIBUTES, Scene, draw_scene

Content: TypeAlias = str | Scene | Clip | Sound

ASK_TO_DRAW: Final = (
    "draw {}",
    "please draw {}",
    "show me {}",
    "paint {}",
    "make a picture of {}",
    "can you draw {}?",
    "i want to see {}",
    "an image of {}",
    "generate {}",
    "create a picture of {}",
    "{}",
)
ASK_WHAT: Final = (
    "what is this?",
    "describe the picture",
    "what do you see?",
    "describe this image",
    "what is in this picture?",
    "tell me what this is",
    "caption this",
    "generate a caption",
)
ASK_ATTRIBUTE: Final = {
    "thing": ("what thing is it?", "what object is this?", "which thing is shown?"),
    "color": ("what color is it?", "which color does it have?", "what is its color?"),
    "size": ("how large is it?", "is it small or large?", "what size is it?"),
    "place": ("where is it?", "in which place is it?", "where does it stand?"),
    "background": ("what is the background?", "what color is the background?"),
}
EDITS: Final = {
    "thing": ("turn it into a {}", "make it a {}", "replace it with a {}", "a {} instead"),
    "color": ("make it {}", "the same in {}", "now in {}", "paint it {}", "now make it {}"),
    "place": ("move it to the {}", "put it {} {}", "now {} {}", "the same {} {}"),
    "background": (
        "make the background {}",
        "put it on a {} background",
        "on a {} background instead",
        "now with a {} background",
    ),
}
EDIT_SIZE: Final = {
    "large": ("make it larger", "make it bigger", "make it large", "now larger", "make it big"),
    "small": ("make it smaller", "make it small", "now smaller", "make it tiny"),
}
ANNOUNCEMENT: Final = "here is {}."  # what a reply says before it draws
CHAT: Final = (
    ("hello", "hello! ask me to draw something, or show me a picture."),
    ("hi", "hello! ask me to draw something, or show me a picture."),
    ("who are you?", "i am pocket, a small any-to-any model."),
    ("what is your name?", "i am pocket, a small any-to-any model."),
    ("what can you do?", "i can draw things, describe pictures and change them."),
    ("what can you draw?", "a bell, a drum, a bird, a bee, a siren, a clock, a horn or a cloud."),
    (
        "which things do you know?",
        "a bell, a drum, a bird, a bee, a siren, a clock, a horn or a cloud.",
    ),
    ("which colors do you know?", "red, yellow, green, cyan, blue and purple."),
    ("which backgrounds are there?", "white, gray, beige and pink."),
    ("thank you", "you are welcome."),
    ("thanks", "you are welcome."),
    ("goodbye", "goodbye!"),
    ("bye", "goodbye!"),
    ("what does a bell do?", "a bell rings."),
    ("what does a drum do?", "a drum thumps."),
    ("what does a bird do?", "a bird chirps."),
    ("what does a bee do?", "a bee buzzes."),
    ("what does a siren do?", "a siren wails."),
    ("what does a clock do?", "a clock ticks."),
    ("what does a horn do?", "a horn blasts."),
    ("what does a cloud do?", "a cloud rains."),
)


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: tuple[Content, ...]
    answer: tuple[Content, ...]


@dataclass
class Dialogue:
    """A conversation so far, and the picture that it is about.

    Args:
        rng: the source of chance.
        held_out: which scenes may be spoken of: True, False, or None for any.
        shown_held_out: which scenes may be shown by the user.
    """

    rng: random.Random
    held_out: bool | None = False
    shown_held_out: bool | None = False
    turns: list[Turn] = field(default_factory=list)
    scene: Scene | None = None  # of the picture last shown or drawn: what is known of it

    def draw(self) -> None:
        """The user asks for a picture in words; what they leave unsaid stays unsaid."""
        full = draw_scene(self.rng, held_out=self.held_out)
        self.scene = draw_partial(full, self.rng)
        request = self.rng.choice(ASK_TO_DRAW).format(caption(self.scene, self.rng))
        self._answer_with_picture((request,), self.scene)

    def show(self) -> None:
        """The user shows a picture and asks for its description, or for one attribute."""
        self.scene = draw_scene(self.rng, held_out=self.shown_held_out)
        if self.rng.random() < 0.6:
            question, answer = self.rng.choice(ASK_WHAT), f"{canonical_caption(self.scene)}."
        else:
            question, answer = self._attribute_question()
        self.turns.append(Turn(self._with_picture(question), (answer,)))

    def ask(self) -> None:
        """The user asks about the picture that the conversation is about."""
        question, answer = self._attribute_question()
        self.turns.append(Turn((question,), (answer,)))

    def edit(self, *, show: bool) -> None:
        """The user asks to change one attribute, of a new picture or of the last one."""
        if show:
            self.scene = draw_scene(self.rng, held_out=self.shown_held_out)
        assert self.scene is not None
        before = self.scene
        request, after = draw_edit(before, self.rng, held_out=self.held_out)
        question = self._with_picture(request, picture=before) if show else (request,)
        self.scene = after
        self._answer_with_picture(question, after)

    def chat(self) -> None:
        """Small talk."""
        question, answer = self.rng.choice(CHAT)
        self.turns.append(Turn((question,), (answer,)))

    def _answer_with_picture(self, question: tuple[Content, ...], scene: Scene) -> None:
        self.turns.append(Turn(question, (ANNOUNCEMENT.format(canonical_caption(scene)), scene)))

    def _attribute_question(self) -> tuple[str, str]:
        assert self.scene is not None
        name = self.rng.choice(list(self.scene.said()))
        question = self.rng.choice(ASK_ATTRIBUTE[name])
        return question, answer_attribute(self.scene, name)

    def _with_picture(self, text: str, picture: Scene | None = None) -> tuple[Content, ...]:
        picture = picture or self.scene
        assert picture is not None
        return (picture, text) if self.rng.random() < 0.7 else (text, picture)


def answer_attribute(scene: Scene, name: str) -> str:
    """The true answer to a question about one attribute."""
    value = getattr(scene, name)
    if name == "thing":
        return f"it is a {value}."
    if name == "place":
        return f"it is {PREPOSITION[value]} {value}."
    if name == "background":
        return f"the background is {value}."
    return f"it is {value}."


def draw_edit(
    scene: Scene, rng: random.Random, *, held_out: bool | None = False
) -> tuple[str, Scene]:
    """A request that changes (or first says) one attribute, and the scene that results."""
    while True:
        name = rng.choice(list(ATTRIBUTES))
        value = rng.choice([v for v in ATTRIBUTES[name] if v != getattr(scene, name)])
        after = scene.changed(name, value)
        if held_out is None or after.held_out == held_out:
            return edit_request(name, value, rng), after


def edit_request(name: str, value: str, rng: random.Random) -> str:
    """One of many ways to ask for a change."""
    if name == "size":
        return rng.choice(EDIT_SIZE[value])
    word = rng.choice(WORDS[name][value]) if rng.random() < 0.3 else value
    template = rng.choice(EDITS[name])
    if template.count("{}") == 2:
        return template.format(PREPOSITION[value], word)
    return template.format(word)


def draw_dialogue(
    rng: random.Random,
    *,
    max_turns: int = 4,
    held_out: bool | None = False,
    shown_held_out: bool | None = None,
) -> tuple[Turn, ...]:
    """A conversation of one to `max_turns` turns that switches modality.

    Args:
        rng: the source of chance.
        max_turns: at most so many.
        held_out: which scenes may be spoken of: False the trainable ones, None any.
        shown_held_out: which scenes the user may show; None = as `held_out`.
    """
    shown = held_out if shown_held_out is None else shown_held_out
    dialogue = Dialogue(rng, held_out, shown)
    for _ in range(rng.choice(range(1, max_turns + 1))):
        kind = rng.random()
        if dialogue.scene is not None and kind < 0.35:
            dialogue.edit(show=False)
        elif dialogue.scene is not None and kind < 0.5:
            dialogue.ask()
        elif kind < 0.68:
            dialogue.draw()
        elif kind < 0.86:
            dialogue.show()
        elif kind < 0.95:
            dialogue.edit(show=True)
        else:
            dialogue.chat()
    return tuple(dialogue.turns)
