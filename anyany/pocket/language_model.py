"""Pocket's language model: a small Llama pre-trained on the world's conversations, text alone.

A medium's place is taken by soft words: vectors mixed from the embeddings of its attributes'
words, and of what it is where it is no picture. A language model that answers from those only
needs a projector that says them. Media to be made are not said at all: signal tokens come with
stage 2.

Legend: B batch, T tokens, D language width, S slots, N tokens of all slots, W words of a slot.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyany.alignment.trainer import LossOutput, Task
from anyany.language import TEMPLATES, MediaSlot, PromptStyle, SignalSpec, TokenSegment, render
from anyany.messages import ImagePart, Message, TextPart
from anyany.pocket.captions import CLIP_WORDS, SOUND_WORDS, WORDS
from anyany.pocket.clips import Clip
from anyany.pocket.dialogues import Content, Turn
from anyany.pocket.media_dialogues import draw_media_dialogue
from anyany.pocket.sounds import Sound
from anyany.pocket.world import Scene

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from anyany.alignment.order import Draws

Subject: TypeAlias = Scene | Clip | Sound
LANGUAGE_DIM: Final = 192
SLOT_TOKENS: Final[Mapping[type, int]] = {Scene: 16, Clip: 16, Sound: 48}  # as the encoders give
SLOT_WORDS: Final = 5  # at most so many
_KIND: Final[Mapping[type, str]] = {Clip: "video", Sound: "sound"}
NUM_DIALOGUES: Final = 40_000
POCKET_STYLE: Final = PromptStyle(
    TEMPLATES["pocket"], slot_prefix="<media>", slot_suffix="</media>"
)
_NOISE: Final = 0.3  # of a slot vector, relative to the deviation of the embeddings
_SLOT: Final = -1  # in place of a token id


def draw_any_dialogue(rng: random.Random) -> Sequence[Turn]:
    """A conversation about any pictures, clips and sounds of the world."""
    return draw_media_dialogue(rng, held_out=None)


def build_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The language model with fresh weights, input and output rows untied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=LANGUAGE_DIM,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids; `_SLOT` stands where media go, in the order of `shown`."""

    ids: tuple[int, ...]
    loss: tuple[bool, ...]
    shown: tuple[Subject, ...]


class LanguagePretrainTask(Task):
    """Predict the assistant's words in conversations about media that are only soft words.

    Args:
        lm: trained.
        tokenizer: the world's.
    """

    def __init__(self, lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(lm, num_samples=NUM_DIALOGUES)
        self.lm = lm
        self.tokenizer = tokenizer

    @functools.lru_cache(maxsize=NUM_DIALOGUES)  # noqa: B019  one task a process
    def conversation(self, index: int) -> Encoded:
        """The conversation of an index."""
        turns = draw_any_dialogue(random.Random(f"language:{index}"))
        return encode_conversation(turns, self.tokenizer)

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Any]:
        """Packed ids and loss masks [B, T], and per slot its words and their mixture."""
        conversations = [self.conversation(index) for index in indices]
        rows = _packed(conversations)
        length = max(sum(len(one.ids) for one in row) for row in rows)
        pad = int(self.tokenizer.pad_token_id)
        ids = torch.full((len(rows), length), pad)
        loss = torch.zeros(len(rows), length, dtype=torch.bool)
        for number, row in enumerate(rows):
            row_ids = [token_id for one in row for token_id in one.ids]
            ids[number, : len(row_ids)] = torch.tensor(row_ids)
            loss[number, : len(row_ids)] = torch.tensor([flag for one in row for flag in one.loss])
        shown = [subject for row in rows for one in row for subject in one.shown]
        words, mixtures, owners = self._soft_words(shown, draws.numpy_generators[0])
        return {"ids": ids, "loss": loss, "words": words, "mixtures": mixtures, "owners": owners}

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """Cross-entropy of the assistant's tokens."""
        ids, mask = batch["ids"], batch["loss"]
        table: Any = self.lm.get_input_embeddings()
        embeds = table(ids.clamp(min=0))  # [B, T, D]
        deviation = table.weight.detach().std()
        spoken = table(batch["words"])[batch["owners"]]  # [N, W, D]
        slots = torch.einsum("nw,nwd->nd", batch["mixtures"], spoken)
        noise = torch.randn(slots.shape, generator=draws.generators[0])
        embeds = embeds.clone()
        embeds[ids == _SLOT] = slots + _NOISE * deviation * noise
        hidden = self.lm.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        predicted = mask[:, 1:]
        head: Any = self.lm.lm_head
        logits = head(hidden[:, :-1][predicted])  # [tokens with loss, V]
        labels = ids[:, 1:][predicted]
        right = (logits.argmax(-1) == labels).float().mean()
        return LossOutput(F.cross_entropy(logits, labels), {"accuracy": right}, weight=len(labels))

    def _soft_words(
        self, shown: Sequence[Subject], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Word ids [S, W], and per token of a slot its mixture [N, W] and its slot [N]."""
        words = torch.zeros(len(shown), SLOT_WORDS, dtype=torch.long)
        mixtures = [np.zeros((0, SLOT_WORDS))]
        owners: list[int] = []
        for number, subject in enumerate(shown):
            values = spoken_words(subject)
            words[number, : len(values)] = torch.tensor(
                [word_id(word, self.tokenizer) for word in values]
            )
            tokens = SLOT_TOKENS[type(subject)]
            soft = rng.random() < 0.7
            mixture = (
                rng.dirichlet([0.4] * len(values), tokens)
                if soft
                else _each_once(rng, len(values), tokens)
            )
            mixtures.append(np.pad(mixture, ((0, 0), (0, SLOT_WORDS - len(values)))))
            owners += [number] * tokens
        packed = torch.from_numpy(np.concatenate(mixtures).astype(np.float32))
        return words, packed, torch.tensor(owners, dtype=torch.long)


def spoken_words(subject: Subject) -> list[str]:
    """The canonical words of a medium's attributes, and what it is where it is no picture."""
    tables = {**WORDS, **CLIP_WORDS, **SOUND_WORDS}
    words = [tables[name][value][0] for name, value in subject.said().items()]
    kind = _KIND.get(type(subject))
    return [*words, kind] if kind else words


def word_id(word: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """The one token of a word within a sentence."""
    (only,) = tokenizer(" " + word, add_special_tokens=False).input_ids
    return int(only)


def world_words() -> list[str]:
    """Every word that a medium's place can hold, each once."""
    tables = {**WORDS, **CLIP_WORDS, **SOUND_WORDS}
    words = [names[0] for values in tables.values() for names in values.values()]
    return list(dict.fromkeys([*words, *_KIND.values()]))


def encode_conversation(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """A conversation as the prompt template writes it, without the media that it makes."""
    messages: list[Message] = []
    shown: list[Subject] = []
    for turn in turns:
        shown += [item for item in turn.question if not isinstance(item, str)]
        messages.append(Message("user", tuple(_part(item) for item in turn.question)))
        said = tuple(TextPart(item) for item in turn.answer if isinstance(item, str))
        messages.append(Message("assistant", said))
    ids: list[int] = []
    loss: list[bool] = []
    slots = iter(shown)
    for segment in render(
        messages, tokenizer=tokenizer, signals=SignalSpec(), style=POCKET_STYLE, training=True
    ):
        if isinstance(segment, MediaSlot):
            tokens = SLOT_TOKENS[type(next(slots))]
            ids += [_SLOT] * tokens
            loss += [False] * tokens
        else:
            assert isinstance(segment, TokenSegment)
            ids += segment.ids
            loss += [segment.loss] * len(segment.ids)
    return Encoded(tuple(ids), tuple(loss), tuple(shown))


def _packed(conversations: Sequence[Encoded]) -> list[list[Encoded]]:
    """Conversations in as few rows as greed finds, so that little is padding; each begins with
    its begin-of-sequence token, by which the model learns to forget what stands before."""
    longest = max(len(one.ids) for one in conversations)
    rows: list[list[Encoded]] = []
    for one in sorted(conversations, key=lambda one: -len(one.ids)):
        for row in rows:
            if sum(len(other.ids) for other in row) + len(one.ids) <= longest:
                row.append(one)
                break
        else:
            rows.append([one])
    return rows


def _part(item: Content) -> TextPart | ImagePart:
    return TextPart(item) if isinstance(item, str) else ImagePart(_blank())


@functools.cache
def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (1, 1))


def _each_once(rng: np.random.Generator, num_words: int, tokens: int) -> Any:
    """One word a slot vector, every word at least once: [tokens, words]."""
    chosen = np.concatenate(
        [np.arange(num_words), rng.integers(num_words, size=tokens - num_words)]
    )
    rng.shuffle(chosen)
    return np.eye(num_words)[chosen]
