"""AnyToAny: what comes out, in which order, and that a seed means bytes."""

# ruff: noqa: F811 (fixtures are imported)

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from system_fixtures import picture, pocket  # noqa: F401

from anyany import AnyToAny, ImagePart, Message, Reply, TextPart
from anyany.errors import AnyAnyError, MediaError, PromptError, UsageError
from anyany.records import part_sha256

FAST: Any = {"max_new_tokens": 24, "num_inference_steps": 2}


def pixels(reply: Reply) -> list[str]:
    """Hashes of a reply's pictures."""
    return [part_sha256(part) for part in reply.images]


def ask(model: AnyToAny, prompt: object = "a small red bell", **kwargs: object) -> Reply:
    arguments: dict[str, object] = {"outputs": {"text", "image"}, "seed": 7, **FAST, **kwargs}
    return model.generate(prompt, **arguments)  # type: ignore[arg-type]


def test_outputs_are_honoured_exactly(pocket: AnyToAny) -> None:
    text = pocket.generate("a small red bell", outputs={"text"}, seed=7, max_new_tokens=12)
    picture = ask(pocket, outputs={"image"})
    both = ask(pocket)

    assert text.text
    assert [part.modality for part in text] == ["text"]
    assert [part.modality for part in picture.parts] == ["image"] * len(picture.images)
    assert picture.images
    assert picture.text == ""
    assert picture.raw_text  # written all the same
    assert both.text
    assert both.images


def test_outputs_may_be_one_name_or_openais_modalities(pocket: AnyToAny) -> None:
    one = pocket.generate("hello", outputs="text", seed=7, max_new_tokens=8)  # type: ignore[arg-type]
    other = pocket.generate("hello", modalities=["text"], seed=7, max_new_tokens=8)

    assert one.text == other.text != ""


def test_without_outputs_the_model_chooses(pocket: AnyToAny) -> None:
    reply = pocket.generate("hello", seed=7, max_new_tokens=24, image={"num_inference_steps": 1})

    assert reply.finish_reason in ("stop", "length")
    assert {part.modality for part in reply} <= {"text", "image"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(pocket: AnyToAny) -> None:
    first, again, other = ask(pocket), ask(pocket), ask(pocket, seed=8)

    assert pixels(first) == pixels(again)
    assert first.token_ids == again.token_ids == other.token_ids  # greedy text knows no seed
    assert pixels(first) != pixels(other)


def test_a_seed_decides_drawn_text_too(pocket: AnyToAny) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        return pocket.generate(
            "hello", outputs={"text"}, seed=seed, temperature=3.0, max_new_tokens=16
        ).token_ids

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_a_drawn_seed_is_told_and_repeats_the_reply(pocket: AnyToAny) -> None:
    first = ask(pocket, seed=None)

    assert pixels(ask(pocket, seed=first.seed)) == pixels(first)


def test_timings_name_every_stage(pocket: AnyToAny) -> None:
    reply = ask(pocket)

    assert set(reply.timings) == {"encode", "language", "decode.image", "total"}
    assert all(value >= 0 for value in reply.timings.values())
    stages = sum(value for name, value in reply.timings.items() if name != "total")
    assert 0 < stages <= reply.timings["total"]


def test_pictures_are_read_in_every_form(
    pocket: AnyToAny, picture: ImagePart, tmp_path: Path
) -> None:
    path = picture.save(tmp_path / "bell.png")
    forms: list[object] = [
        ["what is this?", picture],
        ["what is this?", picture.image],
        ["what is this?", path],
        [Message("user", (TextPart("what is this?"), picture))],
        [{"role": "user", "content": [
            {"type": "text", "text": "what is this?"}, {"type": "image", "image": str(path)},
        ]}],
        [{"role": "user", "content": [
            {"type": "text", "text": "what is this?"}, {"type": "image", "path": path},
        ]}],
    ]  # fmt: skip

    ids = {
        pocket.generate(form, outputs={"text"}, seed=7, max_new_tokens=12).token_ids
        for form in forms
    }

    assert len(ids) == 1


def test_several_pictures_in_one_prompt_each_have_their_place(
    pocket: AnyToAny, picture: ImagePart
) -> None:
    white = ImagePart(Image.new("RGB", (64, 64), "white"))
    bridge = pocket.bridge
    turn = Message("user", (picture, TextPart("and"), white))
    media = {i: bridge.project(x) for i, x in enumerate(bridge.encode_parts([picture, white]))}
    layout = bridge.layout([turn], media)
    reply = ask(pocket, [picture, "and", white])

    assert [slot.index for slot in layout.slots] == [0, 1]
    assert layout.slots[0].start + layout.slots[0].length < layout.slots[1].start
    assert bridge.embed(layout, media).shape[0] == len(layout)
    provenance = reply.images[0].provenance
    assert provenance is not None
    assert [item.sha256 for item in provenance.inputs] == [
        part_sha256(picture),
        part_sha256(white),
    ]


def test_a_picture_alone_gets_the_default_instruction(pocket: AnyToAny, picture: ImagePart) -> None:
    alone = pocket.generate(picture, outputs={"text"}, seed=7, max_new_tokens=12)
    asked = pocket.generate(
        [picture, pocket.language.template.default_instruction],
        outputs={"text"},
        seed=7,
        max_new_tokens=12,
    )

    assert alone.token_ids == asked.token_ids


def test_a_reply_is_a_turn_of_the_next_request(pocket: AnyToAny) -> None:
    first_turn = Message("user", (TextPart("a small red bell"),))
    first = ask(pocket, [first_turn])
    second = ask(pocket, [first_turn, first.message(), Message("user", (TextPart("in blue"),))])
    alone = ask(pocket, "in blue")

    assert second.images
    assert pixels(second) != pixels(alone)  # the conversation is heard
    provenance = second.images[0].provenance
    assert provenance is not None
    assert [turn["role"] for turn in provenance.request] == ["user", "assistant", "user"]


def test_call_style_of_transformers(pocket: AnyToAny, picture: ImagePart) -> None:
    (text,) = pocket("hello", generation_mode="text", max_new_tokens=8, seed=7)
    (full,) = pocket(
        "hello", generation_mode="text", max_new_tokens=8, seed=7, return_full_text=True
    )
    (drawn,) = pocket("a red bell", generation_mode="image", generate_kwargs={"seed": 7, **FAST})
    (asked,) = pocket(
        "what is this?",
        images=picture.image,
        generation_mode="text",
        max_new_tokens=8,
        seed=7,
    )
    batch = pocket(["hello", "hi"], generation_mode="text", max_new_tokens=4, seed=7)

    assert set(text) == {"input_text", "generated_text"}
    assert full["generated_text"] == f"hello {text['generated_text']}"
    assert set(drawn) == {"input_text", "generated_image"}
    assert isinstance(drawn["generated_image"], Image.Image)
    assert asked["generated_text"]
    assert [record["input_text"] for record in batch] == ["hello", "hi"]


def test_bytes_do_not_depend_on_neighbours_or_order(pocket: AnyToAny, picture: ImagePart) -> None:
    items: list[dict[str, Any]] = [
        {"prompt": "a small red bell", "seed": 7, "outputs": {"text", "image"}},
        {"prompt": ["make it blue", picture], "seed": 9, "outputs": {"image"}},
        {"prompt": "hello", "seed": 3, "outputs": {"text"}},
        {"prompt": "a large green drum at the top on a pink background", "seed": 7,
         "outputs": {"image"}},
    ]  # fmt: skip
    for item in items:
        item["max_new_tokens"] = 24
        item["image"] = {"num_inference_steps": 2}
    alone = [pocket.generate(**item) for item in items]

    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        batch = list(pocket.generate_batch([items[i] for i in order]))
        for index, reply in zip(order, batch, strict=True):
            assert isinstance(reply, Reply)
            assert reply.token_ids == alone[index].token_ids
            assert pixels(reply) == pixels(alone[index])


def test_the_opt_out_of_invariance_answers_the_same_requests(pocket: AnyToAny) -> None:
    from anyany.requests import EngineSettings

    loose = AnyToAny(
        pocket.config,
        pocket.bridge,
        pocket.decoders,
        dict(pocket.output_projectors.items()),  # type: ignore[arg-type]
        settings=EngineSettings(batch_invariant=False, micro_batch=2),
        folder=pocket.folder,
    )
    prompts = ["a red bell", "a blue drum", "a green bee"]
    replies = list(loose.generate_batch(prompts, outputs={"image"}, seed=7, **FAST))

    for prompt, reply in zip(prompts, replies, strict=True):
        assert isinstance(reply, Reply)
        exact = ask(pocket, prompt, outputs={"image"})
        difference = np.asarray(reply.images[0].image, int) - np.asarray(exact.images[0].image, int)
        assert np.abs(difference).max() <= 2  # the last bits, not another picture
        assert reply.images[0].provenance is not None
        assert reply.images[0].provenance.settings["batch_invariant"] is False


def test_a_poisoned_request_fails_alone(
    pocket: AnyToAny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(pocket.decoders, "video", raising=False)
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    prompts: list[object] = [
        "hello",
        ["what is this?", torn],
        "",
        {"prompt": "hello", "outputs": {"text"}, "colour": "red"},
        {"prompt": "hello", "max_new_tokens": "many"},
        "word " * 2000,
        {"prompt": "hello", "outputs": {"video"}},
        "hello",
    ]
    answers = list(
        pocket.generate_batch(prompts, errors="return", outputs={"text"}, seed=7, max_new_tokens=6)
    )

    kinds = [type(answer) for answer in answers]
    assert kinds[0] is kinds[-1] is Reply
    assert kinds[1] is MediaError
    assert kinds[2] is PromptError
    assert kinds[3] is kinds[4] is UsageError
    assert kinds[5] is PromptError
    assert isinstance(answers[6], UsageError)
    alone = pocket.generate("hello", outputs={"text"}, seed=7, max_new_tokens=6)
    for answer in (answers[0], answers[-1]):
        assert isinstance(answer, Reply)
        assert answer.token_ids == alone.token_ids
    with pytest.raises(AnyAnyError):
        list(pocket.generate_batch(prompts, outputs={"text"}, seed=7, max_new_tokens=6))


def test_long_conversations_are_refused_or_shortened(pocket: AnyToAny) -> None:
    turns: list[Message] = []
    for _ in range(8):
        turns += [
            Message("user", (TextPart("a small red bell " * 16),)),
            Message("assistant", (TextPart("here is a bell."),)),
        ]
    turns.append(Message("user", (TextPart("hello"),)))

    with pytest.raises(PromptError, match="context is 512"):
        pocket.generate(turns, outputs={"text"}, seed=7, max_new_tokens=8)
    short = pocket.generate(
        turns, outputs={"text"}, seed=7, max_new_tokens=8, truncate="oldest_turns"
    )
    assert short.text
    assert 0 < short.dropped_turns < 8
    assert pocket.generate("hello", outputs={"text"}, truncate="oldest_turns").dropped_turns == 0
    with pytest.raises(PromptError, match="the last turn alone is longer"):
        pocket.generate("word " * 2000, outputs={"text"}, truncate="oldest_turns")
