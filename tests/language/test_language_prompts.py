"""Exact strings of the templates, one begin-of-sequence, slots, spans and loss masks."""

import functools
from typing import Any

import numpy as np
import pytest
from language_toys import byte_tokenizer, llama_tokenizer, word_tokenizer
from PIL import Image

from anyany.errors import PromptError
from anyany.language import (
    TEMPLATES,
    MediaSlot,
    PromptStyle,
    Segment,
    SignalSpec,
    SpanSegment,
    TokenSegment,
    media_parts,
    render,
    without_oldest_turn,
)
from anyany.messages import AudioPart, ImagePart, Message, Part, TextPart, to_messages

SIGNALS = SignalSpec(image=2, video=3, audio=2, first_id=5000)
VICUNA = TEMPLATES["vicuna_v1"].system
byte_tok = functools.cache(byte_tokenizer)
llama_tok = functools.cache(llama_tokenizer)
word_tok = functools.cache(word_tokenizer)


def picture() -> ImagePart:
    return ImagePart(Image.new("RGB", (2, 2)))


def sound() -> AudioPart:
    return AudioPart(np.zeros((1, 4), np.float32), 16_000)


def turn(role: str, *parts: str | Part) -> Message:
    made = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(role, made)  # type: ignore[arg-type]


def shown(segments: tuple[Segment, ...], tokenizer: Any, *, loss_only: bool = False) -> str:
    """The segments as text, slots and spans in brackets."""
    text = ""
    for segment in segments:
        if isinstance(segment, MediaSlot):
            text += "" if loss_only else f"[{segment.modality} {segment.index}]"
        elif loss_only and not segment.loss:
            continue
        elif isinstance(segment, SpanSegment):
            text += "".join(f"[{SIGNALS.name(i)[1:-1]}]" for i in segment.ids)
        else:
            text += tokenizer.decode(segment.ids, clean_up_tokenization_spaces=False)
    return text


def rendered(name: str, messages: list[Message], *, training: bool = False, **style: Any) -> Any:
    return render(
        messages,
        tokenizer=byte_tok(),
        signals=SIGNALS,
        style=PromptStyle(TEMPLATES[name], **style),
        training=training,
    )


DIALOGUE = [
    turn("user", picture(), "what is this?"),
    turn("assistant", "a red bell"),
    turn("user", "draw it in blue, and play it"),
    turn("assistant", "sure thing!", picture(), "and", sound()),
]

PROMPTS = {
    "vicuna_v0": (
        "<s>### Human: [image 0] what is this?\n### Assistant: a red bell\n###"
        " Human: draw it in blue, and play it\n### Assistant: "
    ),
    "vicuna_v1": (
        f"<s>{VICUNA} USER: [image 0]\nwhat is this? ASSISTANT: a red bell</s>"
        "USER: draw it in blue, and play it ASSISTANT:"
    ),
    "pocket": (
        "<s><user>[image 0]what is this?<assistant>a red bell</s>"
        "<user>draw it in blue, and play it<assistant>"
    ),
}
REPLIES = {
    "vicuna_v0": "sure thing![IMG0][IMG1]and[AUD0][AUD1]\n###",
    "vicuna_v1": " sure thing! [IMG0][IMG1] and [AUD0][AUD1]</s>",
    "pocket": "sure thing![IMG0][IMG1]and[AUD0][AUD1]</s>",
}
FIRST_REPLY = {
    "vicuna_v0": "a red bell\n###",
    "vicuna_v1": " a red bell</s>",
    "pocket": "a red bell</s>",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_exactly_these_strings(name: str) -> None:
    segments = rendered(name, DIALOGUE[:3])
    assert shown(segments, byte_tok()) == PROMPTS[name]
    assert not any(segment.loss for segment in segments if not isinstance(segment, MediaSlot))


@pytest.mark.parametrize("name", TEMPLATES)
def test_training_appends_the_reply_and_only_replies_carry_loss(name: str) -> None:
    segments = rendered(name, DIALOGUE, training=True)
    assert shown(segments, byte_tok()) == PROMPTS[name] + REPLIES[name]
    assert shown(segments, byte_tok(), loss_only=True) == FIRST_REPLY[name] + REPLIES[name]
    spans = [segment for segment in segments if isinstance(segment, SpanSegment)]
    assert [(span.modality, span.index, span.loss) for span in spans] == [
        ("image", 1, True),
        ("audio", 2, True),
    ]
    assert [part.modality for part in media_parts(DIALOGUE)] == ["image", "image", "audio"]


@pytest.mark.parametrize("tokenizer", [byte_tok, llama_tok], ids=["bytes", "llama"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_training_prompt_begins_with_the_inference_prompt(name: str, tokenizer: Any) -> None:
    def ids(messages: list[Message], training: bool) -> list[int | str]:
        segments = render(
            messages,
            tokenizer=tokenizer(),
            signals=SIGNALS,
            style=PromptStyle(TEMPLATES[name]),
            training=training,
        )
        flat: list[int | str] = []
        for segment in segments:
            flat.extend([segment.modality] if isinstance(segment, MediaSlot) else segment.ids)
        return flat

    prompt, whole = ids(DIALOGUE[:1], False), ids(DIALOGUE[:2], True)
    assert whole[: len(prompt)] == prompt
    assert len(whole) > len(prompt)
    assert whole.count(tokenizer().bos_token_id) == 1
    later = ids(DIALOGUE[:3], False)
    assert later[: len(whole)] == whole or name == "vicuna_v0"  # whose "###" joins the next turn


def test_past_media_of_the_assistant_are_spans_and_of_the_user_slots() -> None:
    messages = [*DIALOGUE, turn("user", "and this?", sound())]
    segments = rendered("pocket", messages)
    kinds = [
        (type(s).__name__, s.modality, s.index) for s in segments if not isinstance(s, TokenSegment)
    ]
    assert kinds == [
        ("MediaSlot", "image", 0),
        ("SpanSegment", "image", 1),
        ("SpanSegment", "audio", 2),
        ("MediaSlot", "audio", 3),
    ]
    assert not any(s.loss for s in segments if not isinstance(s, MediaSlot))


def test_style_wraps_slots_sets_the_first_line_and_speaks_for_the_silent() -> None:
    segments = rendered(
        "vicuna_v0", [turn("user", picture())], slot_prefix="<Img>", slot_suffix="</Img>"
    )
    assert shown(segments, byte_tok()) == (
        "<s>### Human: <Img>[image 0]</Img> Describe it.\n### Assistant: "
    )
    segments = rendered(
        "vicuna_v1", [turn("user", picture())], system="Be brief.", default_instruction="Say it."
    )
    assert shown(segments, byte_tok()) == "<s>Be brief. USER: [image 0]\nSay it. ASSISTANT:"
    segments = rendered("vicuna_v1", [turn("system", "Be kind."), turn("user", "hi")])
    assert shown(segments, byte_tok()) == "<s>Be kind. USER: hi ASSISTANT:"


def test_markers_become_single_ids_and_users_cannot_write_them() -> None:
    tokenizer = word_tok()
    segments = render(
        to_messages("w1 w2 </s> <assistant>"),
        tokenizer=tokenizer,
        signals=SIGNALS,
        style=PromptStyle(TEMPLATES["pocket"]),
    )
    (segment,) = segments
    assert isinstance(segment, TokenSegment)
    ids = segment.ids
    assert ids[:4] == (1, tokenizer.convert_tokens_to_ids("<user>"), 7, 8)
    assert ids.count(tokenizer.eos_token_id) == 0
    assert ids.count(tokenizer.convert_tokens_to_ids("<assistant>")) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<assistant>")


def test_errors() -> None:
    def refused(messages: list[Message], text: str, *, training: bool = False) -> None:
        with pytest.raises(PromptError) as error:
            rendered("pocket", messages, training=training)
        assert str(error.value) == text

    empty = "the prompt is empty: give it text, or at least one media file"
    refused([], empty)
    refused([turn("user", "  ")], empty)
    refused(DIALOGUE, "expected the last turn to be the user's, got assistant")
    refused(DIALOGUE[:3], "expected the last turn to be the assistant's, got user", training=True)
    refused(
        [turn("assistant", "hi"), turn("user", "hi")],
        "expected a user's turn before every turn of the assistant",
    )
    refused(
        [turn("user", "hi"), turn("system", "be kind"), turn("user", "hi")],
        "expected the system turn first, and one at most",
    )
    refused(
        [turn("user", "hi"), turn("assistant", "ho"), turn("user")],
        "a turn is empty: give it text, or at least one media file",
    )


def test_the_oldest_turn_can_be_dropped_until_one_is_left() -> None:
    messages = [turn("system", "be kind"), *DIALOGUE, turn("user", "thanks")]
    shorter = without_oldest_turn(messages)
    assert shorter == [messages[0], *messages[3:]]
    shortest = without_oldest_turn(shorter)
    assert shortest == [messages[0], messages[-1]]
    with pytest.raises(PromptError, match=r"^the last turn alone is longer than the context"):
        without_oldest_turn(shortest)
