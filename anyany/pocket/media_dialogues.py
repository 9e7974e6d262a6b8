"""Conversations that switch between pictures, clips and sounds, each turn with its true answer.

As in `dialogues`, a scene, clip or sound in a user's turn is a medium shown; in an assistant's turn
it is a medium to be made, as far as it was said. What is known of the thing goes along from medium
to medium: a picture's bell is the clip's bell and the sound's bell, and keeps its color. What is
not known of the next medium the reply decides: a decoder that is told little makes little sense.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from anyany.pocket.captions import CLIP_WORDS, SOUND_WORDS, canonical_caption, caption, draw_partial
from anyany.pocket.clips import (
    CLIP_ATTRIBUTES,
    Clip,
    canonical_clip_caption,
    clip_caption,
    complete_clip,
    draw_clip,
    draw_partial_clip,
)
from anyany.pocket.dialogues import (
    ANNOUNCEMENT,
    ASK_ATTRIBUTE,
    ASK_TO_DRAW,
    EDITS,
    Content,
    Dialogue,
    Turn,
    answer_attribute,
)
from anyany.pocket.sounds import (
    SOUND_ATTRIBUTES,
    Sound,
    canonical_sound_caption,
    complete_sound,
    draw_partial_sound,
    draw_sound,
    sound_caption,
)
from anyany.pocket.world import MOTIONS, Scene, complete, draw_scene

Subject: TypeAlias = Scene | Clip | Sound

ASK_TO_FILM: Final = (
    "animate {}",
    "film {}",
    "show me a video of {}",
    "make a video of {}",
    "a clip of {}",
    "a movie of {}",
    "i want to see a clip of {}",
    "generate a video of {}",
)
ASK_TO_PLAY: Final = (
    "play {}",
    "let me hear {}",
    "i want to hear {}",
    "can i hear {}?",
    "record {}",
    "make an audio recording of {}",
    "generate {}",
)
ASK_WHAT_CLIP: Final = (
    "what happens in this video?",
    "describe the clip",
    "what do you see in this video?",
    "describe this video",
    "what is this?",
    "generate a caption",
)
ASK_WHAT_SOUND: Final = (
    "what is this sound?",
    "describe the sound",
    "what do you hear?",
    "describe this recording",
    "what is this?",
    "generate a caption",
)
ASK_MOTION: Final = ("how does it move?", "where does it move?", "what does it do?")
ASK_COUNT: Final = ("how many times does it sound?", "how often do you hear it?")
ASK_PITCH: Final = ("is it high or low?", "how high is it?", "what is its pitch?")
TO_SOUND: Final = (
    "what sound does it make?",
    "let me hear it",
    "and its sound?",
    "play its sound",
    "what does it sound like?",
    "now its sound",
)
TO_SOUND_TIMES: Final = ("let me hear it {}", "play it {}", "its sound, {}")
TO_PICTURE: Final = (
    "what does it look like?",
    "draw it",
    "show me a picture of it",
    "a picture of it",
    "now draw it",
)
TO_CLIP: Final = (
    "make it move {}",
    "animate it moving {}",
    "film it moving {}",
    "now a clip of it moving {}",
)
TO_CLIP_SIZE: Final = ("animate it {}", "film it {}", "a clip of it {}", "now let me see it {}")
CLIP_MOTION_EDITS: Final = ("now moving {}", "the same moving {}", "make it move {}")
SOUND_EDITS: Final = {
    "thing": ("the same for a {}", "now a {}", "a {} instead"),
    "count": ("now {}", "play it {}", "the same {}"),
    "pitch": ("now {}", "make it {}", "the same but {}"),
}
_SIZES: Final = ("growing", "shrinking")


@dataclass
class MediaDialogue(Dialogue):
    """A conversation about pictures, clips and sounds; see `Dialogue` for its arguments."""

    subject: Subject | None = None  # of the medium last shown or made: what is known of it

    def about_picture(self, kind: str) -> None:
        """One of the turns of `Dialogue`: draw, show, show_edit, edit or ask."""
        if kind in ("edit", "ask"):
            assert isinstance(self.subject, Scene)
            self.scene = self.subject
        if kind == "show_edit":
            self.edit(show=True)
        elif kind == "edit":
            self.edit(show=False)
        else:
            getattr(self, kind)()
        self.subject = self.scene

    def film(self) -> None:
        """The user asks for a clip in words."""
        clip = draw_partial_clip(draw_clip(self.rng, held_out=self.held_out), self.rng)
        request = self.rng.choice(ASK_TO_FILM)
        if clip.motion and self.rng.random() < 0.15:
            request = "{}"
        self._answer((request.format(clip_caption(clip, self.rng)),), clip)

    def play(self) -> None:
        """The user asks for a sound in words."""
        sound = draw_partial_sound(draw_sound(self.rng, held_out=self.held_out), self.rng)
        request = self.rng.choice(ASK_TO_PLAY)
        if (sound.count or sound.pitch) and self.rng.random() < 0.15:
            request = "{}"
        self._answer((request.format(sound_caption(sound, self.rng)),), sound)

    def show_clip(self) -> None:
        """The user shows a clip and asks what happens, or for one attribute."""
        self._ask_shown(draw_clip(self.rng, held_out=self.shown_held_out), ASK_WHAT_CLIP)

    def play_recording(self) -> None:
        """The user plays a recording and asks what it is, or for one attribute."""
        self._ask_shown(draw_sound(self.rng, held_out=self.shown_held_out), ASK_WHAT_SOUND)

    def show_and_turn(self) -> None:
        """The user shows a medium and asks for the same thing in another."""
        shown: Subject = self.rng.choice(
            (
                draw_scene(self.rng, held_out=self.shown_held_out),
                draw_clip(self.rng, held_out=self.shown_held_out),
                draw_sound(self.rng, held_out=self.shown_held_out),
            )
        )
        self.subject = shown
        self.switch(shown=shown)

    def switch(self, shown: Subject | None = None) -> None:
        """The user asks for the thing talked of in another medium.

        Args:
            shown: a medium that comes with the question.
        """
        subject = self.subject
        assert subject is not None
        kinds = [k for k in (Scene, Clip, Sound) if not isinstance(subject, k)]
        request, made = self._turned(subject, self.rng.choice(kinds))
        self._answer(self._beside(shown, request), made)

    def change(self) -> None:
        """The user asks to change one attribute of the clip or sound talked of."""
        subject = self.subject
        assert isinstance(subject, Clip | Sound)
        while True:
            request, after = (
                _clip_edit(subject, self.rng)
                if isinstance(subject, Clip)
                else _sound_edit(subject, self.rng)
            )
            if self.held_out is None or after.held_out == self.held_out:
                break
        self._answer((request,), after)

    def ask_medium(self) -> None:
        """The user asks for one attribute of the clip or sound talked of."""
        assert isinstance(self.subject, Clip | Sound)
        question, answer = attribute_question(self.subject, self.rng)
        self.turns.append(Turn((question,), (answer,)))

    def several(self) -> None:
        """The user asks for two or three media of one thing in one reply."""
        scene = draw_partial(draw_scene(self.rng, held_out=self.held_out), self.rng)
        if scene.thing is None:
            scene = replace(scene, thing=draw_scene(self.rng).thing)
        kinds = self.rng.sample((Scene, Clip, Sound), self.rng.choice((2, 2, 3)))
        if kinds[0] is not Scene:  # only what is said is known
            scene = scene.only(["thing"] if kinds[0] is Sound else ["thing", "color", "background"])
        request, known = self._first(scene, kinds[0])
        asked = [request]
        made: list[Content] = [ANNOUNCEMENT.format(canonical_words(known)), known]
        for kind in kinds[1:]:
            request, known = self._turned(known, kind, scene)
            asked.append(request.removeprefix("now ").removeprefix("and "))
            made += [ANNOUNCEMENT.format(canonical_words(known)), known]
        self.turns.append(Turn((_joined_requests(asked, self.rng),), tuple(made)))
        self.subject = known

    def _first(self, scene: Scene, kind: type) -> tuple[str, Subject]:
        """A request for a medium of a scene's thing in words, and what it should be."""
        if kind is Scene:
            return self.rng.choice(ASK_TO_DRAW[:-1]).format(caption(scene, self.rng)), scene
        if kind is Clip:
            motion = self.rng.choice((*MOTIONS, None))
            clip = Clip(scene.thing, scene.color, scene.background, motion)
            return self.rng.choice(ASK_TO_FILM).format(clip_caption(clip, self.rng)), clip
        drawn = draw_partial_sound(draw_sound(self.rng, held_out=None), self.rng)
        sound = Sound(scene.thing, drawn.count, drawn.pitch)
        return self.rng.choice(ASK_TO_PLAY).format(sound_caption(sound, self.rng)), sound

    def _turned(
        self, subject: Subject, kind: type, looks: Scene | None = None
    ) -> tuple[str, Subject]:
        """A request for the subject in another medium, and what that should be."""
        thing = subject.thing
        color = getattr(looks or subject, "color", None)
        background = getattr(looks or subject, "background", None)
        if kind is Sound:
            if self.rng.random() < 0.3:
                count = self.rng.choice(list(SOUND_WORDS["count"]))
                times = _times(count, self.rng)
                request = self.rng.choice(TO_SOUND_TIMES).format(times)
                return request, self._decided(Sound(thing, count))
            return self.rng.choice(TO_SOUND), self._decided(Sound(thing))
        if kind is Scene:
            scene = Scene(thing, color, background=background)
            return self.rng.choice(TO_PICTURE), self._decided(scene)
        motion = self.rng.choice(MOTIONS)
        clip = Clip(thing, color, background, motion)
        return _motion_request(TO_CLIP, motion, self.rng), self._decided(clip)

    def _decided(self, subject: Subject) -> Subject:
        """With what nobody said of the thing: the reply decides it, and says so."""
        if subject.thing is None:
            return subject
        return completed(subject, self.rng)

    def _ask_shown(self, shown: Subject, questions: tuple[str, ...]) -> None:
        self.subject = shown
        if self.rng.random() < 0.6:
            question, answer = self.rng.choice(questions), f"{canonical_words(shown)}."
        else:
            question, answer = attribute_question(shown, self.rng)
        self.turns.append(Turn(self._beside(shown, question), (answer,)))

    def _beside(self, shown: Subject | None, text: str) -> tuple[Content, ...]:
        if shown is None:
            return (text,)
        return (shown, text) if self.rng.random() < 0.7 else (text, shown)

    def _answer(self, question: tuple[Content, ...], made: Subject) -> None:
        self.turns.append(Turn(question, (ANNOUNCEMENT.format(canonical_words(made)), made)))
        self.subject = made


def completed(subject: Subject, rng: random.Random) -> Subject:
    """A scene, clip or sound with what it leaves unsaid drawn, held out or not."""
    if isinstance(subject, Scene):
        return complete(subject, rng, held_out=None)
    if isinstance(subject, Clip):
        return complete_clip(subject, rng, held_out=None)
    return complete_sound(subject, rng, held_out=None)


def canonical_words(subject: Subject) -> str:
    """The one way in which a model is taught to say a scene, a clip or a sound."""
    if isinstance(subject, Scene):
        return canonical_caption(subject)
    if isinstance(subject, Clip):
        return canonical_clip_caption(subject)
    return canonical_sound_caption(subject)


def draw_media_dialogue(
    rng: random.Random,
    *,
    max_turns: int = 5,
    held_out: bool | None = False,
    shown_held_out: bool | None = None,
) -> tuple[Turn, ...]:
    """A conversation of one to `max_turns` turns about pictures, clips and sounds.

    Args:
        rng: the source of chance.
        max_turns: at most so many.
        held_out: which media may be spoken of: False the trainable ones, None any.
        shown_held_out: which media the user may show; None = as `held_out`.
    """
    shown = held_out if shown_held_out is None else shown_held_out
    dialogue = MediaDialogue(rng, held_out, shown)
    for _ in range(rng.choice(range(1, max_turns + 1))):
        _take_turn(dialogue, rng)
    return tuple(dialogue.turns)


def _take_turn(dialogue: MediaDialogue, rng: random.Random) -> None:
    """The next turn: about the thing talked of, if there is one and chance wants it, or anew."""
    if dialogue.subject is not None and rng.random() < 0.5:
        followed = rng.random()
        picture = isinstance(dialogue.subject, Scene)
        if followed < 0.45:
            dialogue.switch()
        elif followed < 0.75:
            dialogue.about_picture("edit") if picture else dialogue.change()
        elif dialogue.subject.said():
            dialogue.about_picture("ask") if picture else dialogue.ask_medium()
        return
    openings = (
        ("draw", 3),
        ("show", 3),
        ("show_edit", 2),
        ("film", 3),
        ("play", 3),
        ("show_clip", 3),
        ("play_recording", 3),
        ("show_and_turn", 4),
        ("several", 2),
        ("chat", 1),
    )
    names, weights = zip(*openings, strict=True)
    kind = rng.choices(names, weights)[0]
    if kind in ("draw", "show", "show_edit"):
        dialogue.about_picture(kind)
    else:
        getattr(dialogue, kind)()


def attribute_question(
    subject: Subject, rng: random.Random, name: str | None = None
) -> tuple[str, str]:
    """A question for one attribute, and its true answer.

    Args:
        subject: what is asked about.
        rng: the source of chance.
        name: of the attribute; None = any that is known of the subject.
    """
    name = name or rng.choice(list(subject.said()))
    value = getattr(subject, name)
    if name == "motion":
        return rng.choice(ASK_MOTION), f"it is {value if value in _SIZES else f'moving {value}'}."
    if name == "count":
        return rng.choice(ASK_COUNT), f"it sounds {value}."
    if name == "pitch":
        return rng.choice(ASK_PITCH), f"it is {value}."
    question = rng.choice(ASK_ATTRIBUTE[name])
    answered = subject if isinstance(subject, Scene) else Scene(**{name: value})
    return question, answer_attribute(answered, name)


def _clip_edit(clip: Clip, rng: random.Random) -> tuple[str, Clip]:
    name = rng.choice(list(CLIP_ATTRIBUTES))
    value = rng.choice([v for v in CLIP_ATTRIBUTES[name] if v != getattr(clip, name)])
    after = clip.changed(name, value)
    if name == "motion":
        return _motion_request(CLIP_MOTION_EDITS, value, rng), after
    return rng.choice(EDITS[name]).format(value), after


def _sound_edit(sound: Sound, rng: random.Random) -> tuple[str, Sound]:
    name = rng.choice(list(SOUND_ATTRIBUTES))
    value = rng.choice([v for v in SOUND_ATTRIBUTES[name] if v != getattr(sound, name)])
    said = _times(value, rng) if name == "count" else value
    return rng.choice(SOUND_EDITS[name]).format(said), sound.changed(name, value)


def _motion_request(templates: tuple[str, ...], motion: str, rng: random.Random) -> str:
    word = rng.choice(CLIP_WORDS["motion"][motion]) if rng.random() < 0.3 else motion
    if word.endswith("ing"):  # growing, shrinking, rising, falling: no "moving" before it
        return rng.choice(TO_CLIP_SIZE).format(word)
    return rng.choice(templates).format(word)


def _times(count: str, rng: random.Random) -> str:
    """How people say a number of times: "twice", "two times"."""
    word = rng.choice(SOUND_WORDS["count"][count])
    return f"{word} times" if word in ("two", "three") else word


def _joined_requests(asked: list[str], rng: random.Random) -> str:
    link = rng.choice((", then ", " and ", ", and then "))
    return link.join(one.rstrip("?") for one in asked)
