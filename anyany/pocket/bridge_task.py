"""What bridges are compared on: a fixed grammar over the pocket world, with a known best loss.

Every task asks fixed questions about one medium; an answer is the values of some attributes in a
fixed order, a token each. The answers to a question are equally frequent in training, so the best
possible loss of a model that does not see the medium is the logarithm of their number.

    floor = sum over questions of ln(answers) / sum over questions of (words + 1)     nats a token

The end of an answer is the "+ 1": it is certain, and counts as a token in loss and floor alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from anyany.alignment.samples import ListSource, Sample, turn
from anyany.errors import UsageError
from anyany.messages import AudioPart, ImagePart, MediaPart, Modality, VideoPart
from anyany.pocket.animation import CLIP_FRAMES_PER_SECOND, ClipJitter, render_clip
from anyany.pocket.clips import CLIP_ATTRIBUTES, draw_clip
from anyany.pocket.render import BACKGROUND_RGB, IMAGE_SIZE, Jitter, render_image
from anyany.pocket.sounds import SOUND_ATTRIBUTES, draw_sound
from anyany.pocket.synthesis import SAMPLE_RATE, SoundJitter, render_sound
from anyany.pocket.world import ATTRIBUTES, HELD_OUT_PAIRS, Described, Scene, draw_scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TaskName: TypeAlias = Literal["captions", "questions", "detail", "wide", "clips", "sounds"]
Split: TypeAlias = Literal["train", "fresh", "never"]
SPECIAL_TOKENS: Final = ("<pad>", "<s>", "</s>", "<user>", "<assistant>", "<unk>")
FILLER: Final = "and"  # says nothing; stands between words in the language model's lessons
_PAIRS: Final = len(ATTRIBUTES["thing"]) * len(ATTRIBUTES["color"]) - len(HELD_OUT_PAIRS)


@dataclass(frozen=True)
class Question:
    """One question of a task.

    Args:
        text: as it is asked.
        attributes: whose values are the answer, in this order.
        num_answers: equally frequent ones in training.
    """

    text: str
    attributes: tuple[str, ...]
    num_answers: int

    def answer(self, subject: Described) -> str:
        """The one right answer."""
        return " ".join(subject.said()[name] for name in self.attributes)


@dataclass(frozen=True)
class BridgeTask:
    """A task.

    Args:
        name: a key of TASKS.
        modality: of its media.
        questions: one of them is asked about each medium, at even chance.
        draw: a subject; the flag says whether one that no training shows.
        render: a medium of a subject.
    """

    name: str
    modality: Modality
    questions: tuple[Question, ...]
    draw: Callable[[random.Random, bool], Described]
    render: Callable[[Any, random.Random], MediaPart]

    @property
    def floor(self) -> float:
        """The best possible loss without the medium: nats a token."""
        nats = sum(math.log(question.num_answers) for question in self.questions)
        return nats / sum(len(question.attributes) + 1 for question in self.questions)

    def source(self, split: Split, size: int, seed: int) -> ListSource:
        """Conversations in memory: a medium, a question, its answer.

        Args:
            split: combinations that training shows ("train", and "fresh" media of the same), or
                those that it never does ("never").
            size: how many.
            seed: of the draws.
        """
        samples = []
        for number in range(size):
            rng = random.Random(f"{self.name}:{split}:{seed}:{number}")
            subject = self.draw(rng, split == "never")
            question = self.questions[number % len(self.questions)]
            medium = self.render(subject, rng)
            ask = turn("user", medium, question.text)
            reply = turn("assistant", question.answer(subject))
            samples.append(Sample((ask, reply), f"{self.name} {split} {number}"))
        return ListSource(samples)


def get_task(name: str) -> BridgeTask:
    """A task by name.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in TASKS:
        raise UsageError(f"expected a task among {', '.join(TASKS)}; got {name!r}")
    return TASKS[name]


def words() -> list[str]:
    """Every word of every task, each a token."""
    tables: list[Mapping[str, tuple[str, ...]]] = [ATTRIBUTES, CLIP_ATTRIBUTES, SOUND_ATTRIBUTES]
    values = [value for table in tables for one in table.values() for value in one]
    asked = [w for task in TASKS.values() for q in task.questions for w in q.text.split()]
    return list(dict.fromkeys([FILLER, *asked, *values]))


def build_word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the same every time."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *words()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = kind(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
    return wrapped


def draw_lesson(rng: random.Random, most_fillers: int = 40) -> Sample:
    """What the language model learns before any bridge: to answer from words in any order.

    The words are those of a subject of a random task, some twice, among fillers; so it reads what
    stands before the question wherever it stands, and takes each attribute from there.
    """
    task = TASKS[rng.choice(get_args(TaskName))]
    question = rng.choice(task.questions)
    subject = task.draw(rng, rng.random() < 0.2)
    said = [value for value in subject.said().values() for _ in range(rng.choice((1, 1, 2)))]
    context = said + [FILLER] * rng.randint(0, most_fillers)
    rng.shuffle(context)
    ask = turn("user", " ".join([*context, question.text]))
    return Sample((ask, turn("assistant", question.answer(subject))), "lesson")


def _picture(scene: Scene, rng: random.Random) -> MediaPart:
    return ImagePart(render_image(scene, Jitter.draw(rng)))


def _cell(rows: int, columns: int) -> Callable[[Scene, random.Random], MediaPart]:
    """Draws a scene in one cell of a larger picture that is empty elsewhere."""

    def draw(scene: Scene, rng: random.Random) -> MediaPart:
        size = (columns * IMAGE_SIZE, rows * IMAGE_SIZE)
        assert scene.background is not None
        canvas = Image.new("RGB", size, BACKGROUND_RGB[scene.background])
        place = (rng.randrange(columns) * IMAGE_SIZE, rng.randrange(rows) * IMAGE_SIZE)
        canvas.paste(render_image(scene, Jitter.draw(rng)), place)
        return ImagePart(canvas)

    return draw


def _clip(clip: Any, rng: random.Random) -> MediaPart:
    return VideoPart(render_clip(clip, ClipJitter.draw(rng)), CLIP_FRAMES_PER_SECOND)


def _sound(sound: Any, rng: random.Random) -> MediaPart:
    waveform = render_sound(sound, SoundJitter.draw(rng))
    return AudioPart(np.asarray(waveform, np.float32)[None], SAMPLE_RATE)


def _scene(rng: random.Random, never: bool) -> Described:
    return draw_scene(rng, held_out=never)


def _small_scene(rng: random.Random, never: bool) -> Described:
    return draw_scene(rng, held_out=never).changed("size", "small")


_ALL: Final = ("size", "color", "thing", "place", "background")
_NAMED: Final = (Question("name", ("color", "thing"), _PAIRS),)
TASKS: Final[Mapping[str, BridgeTask]] = {
    "captions": BridgeTask(
        "captions",
        "image",
        (Question("describe", _ALL, _PAIRS * 2 * 5 * 4),),
        _scene,
        _picture,
    ),
    "questions": BridgeTask(
        "questions",
        "image",
        (
            Question("what", ("size", "color", "thing"), _PAIRS * 2),
            Question("where", ("place", "background"), 5 * 4),
        ),
        _scene,
        _picture,
    ),
    "detail": BridgeTask("detail", "image", _NAMED, _small_scene, _cell(2, 2)),
    "wide": BridgeTask("wide", "image", _NAMED, _small_scene, _cell(1, 3)),
    "clips": BridgeTask(
        "clips",
        "video",
        # A thing has five colors and five motions that training shows.
        (Question("motion", ("color", "thing", "motion", "background"), 8 * 5 * 5 * 4),),
        lambda rng, never: draw_clip(rng, held_out=never),
        _clip,
    ),
    "sounds": BridgeTask(
        "sounds",
        "audio",
        (Question("sound", ("thing", "count", "pitch"), 8 * 5),),
        lambda rng, never: draw_sound(rng, held_out=never),
        _sound,
    ),
}
