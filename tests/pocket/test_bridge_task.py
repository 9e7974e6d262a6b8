from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from anyany.errors import UsageError
from anyany.messages import ImagePart, VideoPart
from anyany.pocket.bridge_task import (
    TASKS,
    BridgeTask,
    Question,
    build_word_tokenizer,
    draw_lesson,
    get_task,
)
from anyany.pocket.clips import all_clips
from anyany.pocket.render import BACKGROUND_RGB
from anyany.pocket.sounds import all_sounds
from anyany.pocket.world import Described, all_scenes


def trainable(task: BridgeTask) -> Iterator[Described]:
    """Every subject that training may show, each as likely as the next."""
    if task.modality == "image":
        small = task.name in ("detail", "wide")
        yield from (s for s in all_scenes(held_out=False) if not small or s.size == "small")
    elif task.modality == "video":
        yield from all_clips(held_out=False)
    else:
        yield from all_sounds(held_out=False)


def best_loss(task: BridgeTask) -> float:
    """The blind optimum by brute force: of each token, given what came before it.

    Nothing of the closed form is used: the answers of all subjects are counted prefix by prefix.
    """
    nats = tokens = 0.0
    for question in task.questions:
        said = [[*question.answer(s).split(), "</s>"] for s in trainable(task)]
        for end in range(len(said[0])):
            before = Counter(tuple(words[:end]) for words in said)
            after = Counter(tuple(words[: end + 1]) for words in said)
            for prefix, count in after.items():
                nats -= count / len(said) * math.log(count / before[prefix[:-1]])
            tokens += 1
    return nats / tokens


@pytest.mark.parametrize("name", TASKS)
def test_floor_is_the_blind_optimum(name: str) -> None:
    assert get_task(name).floor == pytest.approx(best_loss(get_task(name)), abs=1e-9)


def test_floors_of_the_page() -> None:
    assert get_task("captions").floor == pytest.approx(math.log(1600) / 6)
    assert get_task("questions").floor == pytest.approx((math.log(80) + math.log(20)) / 7)


@pytest.mark.parametrize("name", ["captions", "questions", "detail", "wide"])
def test_sources_keep_their_promise(name: str) -> None:
    task = get_task(name)
    for split in ("train", "fresh", "never"):
        source = task.source(split, 8, 0)
        again = task.source(split, 8, 0)
        for sample, same in zip(source.samples, again.samples, strict=True):
            ask, answer = sample.messages
            part, first = ask.parts[0], same.messages[0].parts[0]
            assert isinstance(part, ImagePart)
            assert isinstance(first, ImagePart)
            assert part.image.tobytes() == first.image.tobytes()
            question = next(q for q in task.questions if q.text == ask.text.strip())
            assert len(answer.text.split()) == len(question.attributes)
    assert {s.messages[0].text.strip() for s in source.samples} == {q.text for q in task.questions}


def test_never_shown_combinations_are_never_in_training() -> None:
    task = get_task("captions")
    shown = {s.messages[1].text for s in task.source("train", 300, 0).samples}
    never = {s.messages[1].text for s in task.source("never", 100, 0).samples}
    held_out = {task.questions[0].answer(s) for s in all_scenes(held_out=True)}
    assert never <= held_out
    assert not shown & held_out


@pytest.mark.parametrize(("name", "size"), [("detail", (128, 128)), ("wide", (192, 64))])
def test_larger_pictures_show_one_scene_in_a_cell(name: str, size: tuple[int, int]) -> None:
    task = get_task(name)
    cells = set()
    for sample in task.source("train", 24, 0).samples:
        part = sample.messages[0].parts[0]
        assert isinstance(part, ImagePart)
        assert part.image.size == size
        empty = part.image.getpixel((0, 0))
        assert empty in BACKGROUND_RGB.values()
        found = [
            (x, y)
            for x in range(0, size[0], 64)
            for y in range(0, size[1], 64)
            if part.image.crop((x, y, x + 64, y + 64)).getcolors(4096) != [(4096, empty)]
        ]
        assert len(found) == 1
        cells.add(found[0])
    assert len(cells) == size[0] * size[1] // 64**2


def test_clips_and_sounds_have_media() -> None:
    (clip,) = get_task("clips").source("train", 1, 0).samples
    part = clip.messages[0].parts[0]
    assert isinstance(part, VideoPart)
    assert part.frames.shape[1:] == (64, 64, 3)
    (sound,) = get_task("sounds").source("train", 1, 0).samples
    assert sound.messages[0].parts[0].modality == "audio"


def test_every_word_is_one_token() -> None:
    tokenizer = build_word_tokenizer()
    unknown = tokenizer.unk_token_id
    for number in range(200):
        for message in draw_lesson(random.Random(number)).messages:
            ids = tokenizer(message.text, add_special_tokens=False).input_ids
            assert len(ids) == len(message.text.split())
            assert unknown not in ids
            assert tokenizer.decode(ids) == message.text.strip()


def test_lessons_hold_their_answer_in_any_order() -> None:
    places = set()
    for number in range(100):
        ask, reply = draw_lesson(random.Random(number)).messages
        context = ask.text.split()[:-1]
        assert set(reply.text.split()) <= set(context)
        places.add(context.index(reply.text.split()[0]))
    assert len(places) > 10


def test_unknown_task_is_named() -> None:
    with pytest.raises(UsageError, match=r"among captions, questions.*'colours'"):
        get_task("colours")


def test_questions_answer_in_order() -> None:
    (scene,) = [s for s in all_scenes() if s == all_scenes()[0]]
    assert Question("x", ("color", "thing"), 40).answer(scene) == f"{scene.color} {scene.thing}"
