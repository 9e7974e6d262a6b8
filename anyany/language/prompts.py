"""Prompt templates, all in one place, and the one function that turns messages into tokens.

A conversation becomes segments in order: text ids, media slots (the bridge puts projected
features there) and signal spans (media of the assistant's own turns). The same function serves
inference, where the prompt ends as the assistant is about to speak, and training, where each
segment says whether it carries loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from anyany.errors import ConfigError, PromptError
from anyany.language.signals import SignalSpec
from anyany.messages import MediaPart, Message, Modality, TextPart

STOP: Final = "{stop}"  # in a template: the tokenizer's end-of-sequence token


@dataclass(frozen=True)
class Template:
    """How turns are written.

    A marker that the tokenizer knows as one token is put in by its id; any other is plain text,
    tokenized together with what stands beside it.

    Args:
        system: the first line, if there is one by default.
        system_end: written after the first line.
        user: written before a user's turn.
        assistant: written before an assistant's turn, the last thing in a prompt.
        reply_lead: written between `assistant` and a reply's first word.
        reply_end: written after a reply, the last thing that carries loss; STOP or plain text.
        next_turn: written before a user's turn that follows a reply.
        media_gap: written between a media slot and text beside it.
        span_gap: written between a signal span and text beside it, in a reply.
        cut_reply: tokenize the reply apart from the prompt instead of together with it.
        stop_strings: text that ends a reply (besides the end-of-sequence token).
        default_instruction: said for the user when the last turn has no text.
    """

    system: str
    system_end: str
    user: str
    assistant: str
    reply_lead: str
    reply_end: str
    next_turn: str
    media_gap: str
    span_gap: str
    cut_reply: bool
    stop_strings: tuple[str, ...]
    default_instruction: str


TEMPLATES: Final[dict[str, Template]] = {
    # NExT-GPT 7b_tiva_v0: no first line; "###" ends a reply and opens the next turn.
    "vicuna_v0": Template(
        system="",
        system_end="",
        user="### Human: ",
        assistant="\n### Assistant: ",
        reply_lead="",
        reply_end="\n###",
        next_turn=" Human: ",
        media_gap=" ",
        span_gap="",
        cut_reply=True,
        stop_strings=("\n###", "###"),
        default_instruction="Describe it.",
    ),
    # Vicuna 1.1 and 1.5, as NExT-GPT v1.5 is trained.
    "vicuna_v1": Template(
        system=(
            "A chat between a curious user and an artificial intelligence assistant. The "
            "assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        system_end=" ",
        user="USER: ",
        assistant=" ASSISTANT:",
        reply_lead=" ",
        reply_end=STOP,
        next_turn="USER: ",
        media_gap="\n",
        span_gap=" ",
        cut_reply=False,
        stop_strings=(),
        default_instruction="Describe it.",
    ),
    # Two markers, one token each in pocket's tokenizer.
    "pocket": Template(
        system="",
        system_end="",
        user="<user>",
        assistant="<assistant>",
        reply_lead="",
        reply_end=STOP,
        next_turn="<user>",
        media_gap="",
        span_gap="",
        cut_reply=True,
        stop_strings=(),
        default_instruction="what is this?",
    ),
}


@dataclass(frozen=True)
class TokenSegment:
    """Ids of the vocabulary, and whether they carry loss."""

    ids: tuple[int, ...]
    loss: bool = False


@dataclass(frozen=True)
class MediaSlot:
    """Where the features of a medium go.

    Args:
        index: its place among `media_parts` of the conversation.
        modality: image, video or audio.
    """

    index: int
    modality: Modality


@dataclass(frozen=True)
class SpanSegment:
    """A whole signal span of an assistant's turn, separators included.

    Args:
        ids: [S].
        modality: image, video or audio.
        index: the medium's place among `media_parts` of the conversation.
        loss: whether it carries loss.
    """

    ids: tuple[int, ...]
    modality: Modality
    index: int
    loss: bool = False


Segment: TypeAlias = TokenSegment | MediaSlot | SpanSegment


@dataclass(frozen=True)
class PromptStyle:
    """What of a `LanguageConfig` touches prompts; None = as the template says."""

    template: Template
    system: str | None = None
    slot_prefix: str = ""
    slot_suffix: str = ""
    default_instruction: str | None = None


def media_parts(messages: Sequence[Message]) -> list[MediaPart]:
    """All media of a conversation in order, the user's and the assistant's."""
    return [
        part for message in messages for part in message.parts if not isinstance(part, TextPart)
    ]


def render(
    messages: Sequence[Message],
    *,
    tokenizer: Any,
    signals: SignalSpec,
    style: PromptStyle,
    training: bool = False,
) -> tuple[Segment, ...]:
    """Turn a conversation into segments.

    Args:
        messages: turns in order, an optional system turn first.
        tokenizer: a fast Hugging Face tokenizer.
        signals: the signal tokens, for media of the assistant's turns.
        style: template and what overrides it.
        training: end after the assistant's last turn and mark the loss: the assistant's text,
            signal spans and stops. Otherwise end where the assistant is about to speak.

    Returns:
        The segments, with one begin-of-sequence id in all, if the tokenizer has one.

    Raises:
        PromptError: the conversation is empty or its turns are out of order.
    """
    turns, system = _split_system(messages, style)
    _check_turns(turns, training=training)
    builder = _Builder(tokenizer, signals, style)
    if tokenizer.bos_token_id is not None:
        builder.token(int(tokenizer.bos_token_id))
    if system:
        builder.text(system)
        builder.text(style.template.system_end)
    for position, message in enumerate(turns):
        if message.role == "user":
            after_reply = position > 0 and turns[position - 1].role == "assistant"
            builder.marker(style.template.next_turn if after_reply else style.template.user)
            builder.user_turn(message)
        else:
            builder.marker(style.template.assistant)
            builder.assistant_turn(message, loss=training)
    if not training:
        builder.marker(style.template.assistant)
    return builder.finish()


def without_oldest_turn(messages: Sequence[Message]) -> list[Message]:
    """The conversation without its first user turn and the replies to it; system turns stay.

    Raises:
        PromptError: only one user turn is left.
    """
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if len(users) < 2:
        raise PromptError("the last turn alone is longer than the context: shorten it")
    kept = [message for message in messages[: users[1]] if message.role == "system"]
    return kept + list(messages[users[1] :])


def _split_system(messages: Sequence[Message], style: PromptStyle) -> tuple[list[Message], str]:
    system = style.template.system if style.system is None else style.system
    turns = list(messages)
    if turns and turns[0].role == "system":
        system = turns.pop(0).text
    if any(message.role == "system" for message in turns):
        raise PromptError("expected the system turn first, and one at most")
    return turns, system


def _check_turns(turns: Sequence[Message], *, training: bool) -> None:
    if not turns or not any(_has_content(message) for message in turns):
        raise PromptError("the prompt is empty: give it text, or at least one media file")
    wanted = "assistant" if training else "user"
    if turns[-1].role != wanted:
        raise PromptError(f"expected the last turn to be the {wanted}'s, got {turns[-1].role}")
    for before, after in zip([None, *turns[:-1]], turns, strict=True):
        if after.role == "assistant" and (before is None or before.role == "assistant"):
            raise PromptError("expected a user's turn before every turn of the assistant")
    if not all(_has_content(message) for message in turns):
        raise PromptError("a turn is empty: give it text, or at least one media file")


def _has_content(message: Message) -> bool:
    return bool(message.text.strip()) or len(media_parts([message])) > 0


def _gap(before: type | None, *, first: str, media: str) -> str:
    """What stands before a text part, by the kind of part before it."""
    if before is None:
        return first
    return " " if before is TextPart else media


@dataclass
class _Builder:
    """Collects segments; text that stands together is tokenized together."""

    tokenizer: Any
    signals: SignalSpec
    style: PromptStyle
    segments: list[Segment] = field(default_factory=list)
    run: list[tuple[str, bool]] = field(default_factory=list)  # (text, loss) not yet tokenized
    num_media: int = 0

    def token(self, token_id: int, *, loss: bool = False) -> None:
        self.flush()
        self.segments.append(TokenSegment((token_id,), loss))

    def text(self, text: str, *, loss: bool = False) -> None:
        if text:
            self.run.append((text, loss))

    def marker(self, text: str) -> None:
        """A piece of the template: one id if the tokenizer knows it, else text."""
        token_id = self.tokenizer.convert_tokens_to_ids(text) if text else None
        if token_id is None or token_id == self.tokenizer.unk_token_id:
            self.text(text)
        else:
            self.token(int(token_id))

    def user_turn(self, message: Message) -> None:
        parts = list(message.parts)
        if not message.text.strip():
            instruction = self.style.default_instruction
            parts.append(TextPart(instruction or self.style.template.default_instruction))
        before: type | None = None
        for part in parts:
            if isinstance(part, TextPart):
                text = part.text.strip()
                if not text:
                    continue
                self.text(_gap(before, first="", media=self.style.template.media_gap) + text)
            else:
                if before is TextPart:
                    self.text(self.style.template.media_gap)
                self.marker(self.style.slot_prefix)
                self.flush()
                self.segments.append(MediaSlot(self.num_media, part.modality))
                self.num_media += 1
                self.marker(self.style.slot_suffix)
            before = type(part)

    def assistant_turn(self, message: Message, *, loss: bool) -> None:
        template = self.style.template
        if template.cut_reply:
            self.flush()
        before: type | None = None
        for part in message.parts:
            if isinstance(part, TextPart):
                text = part.text.strip()
                if not text:
                    continue
                gap = _gap(before, first=template.reply_lead, media=template.span_gap)
                self.text(gap + text, loss=loss)
            else:
                gap = template.span_gap if before is TextPart else ""
                self.text(gap, loss=loss)
                self.flush()
                span = self.signals.span(part.modality)
                if not span:
                    raise PromptError(f"this model has no signal tokens for {part.modality}")
                self.segments.append(SpanSegment(span, part.modality, self.num_media, loss))
                self.num_media += 1
            before = type(part)
        if template.reply_end == STOP:
            if self.tokenizer.eos_token_id is None:
                raise ConfigError("the prompt template needs an end-of-sequence token")
            self.token(int(self.tokenizer.eos_token_id), loss=loss)
        else:
            self.text(template.reply_end, loss=loss)

    def flush(self) -> None:
        """Tokenize the waiting text; a token has loss if its last character has."""
        if not self.run:
            return
        joined = "".join(text for text, _ in self.run)
        encoded = self.tokenizer(
            joined,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
            verbose=False,  # too long for the context is our error to tell
        )
        losses = [loss for text, loss in self.run for _ in text]
        self.run.clear()
        tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for loss, group in itertools.groupby(tokens, lambda token: losses[max(token[1][1] - 1, 0)]):
            self.segments.append(TokenSegment(tuple(token_id for token_id, _ in group), loss))

    def finish(self) -> tuple[Segment, ...]:
        """All segments, neighbouring ids of one kind of loss together."""
        self.flush()
        merged: list[Segment] = []
        for segment in self.segments:
            last = merged[-1] if merged else None
            if (
                isinstance(segment, TokenSegment)
                and isinstance(last, TokenSegment)
                and segment.loss == last.loss
            ):
                merged[-1] = TokenSegment(last.ids + segment.ids, segment.loss)
            else:
                merged.append(segment)
        return tuple(merged)
