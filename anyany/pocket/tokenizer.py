"""Pocket's tokenizer: byte-level BPE, lower case, trained on the world's own text.

It reads any text (bytes are its fallback) and is shared by the language model and the text
encoders.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from anyany.pocket.captions import (
    CLIP_WORDS,
    MEDIA_WORDS,
    SOUND_VERBS,
    SOUND_WORDS,
    WORDS,
    caption,
    draw_partial,
)
from anyany.pocket.dialogues import CHAT, draw_dialogue
from anyany.pocket.world import draw_scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE: Final = 768
SPECIAL_TOKENS: Final = ("<pad>", "<s>", "</s>", "<user>", "<assistant>", "<media>", "</media>")


def train_tokenizer(*, num_dialogues: int = 4000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train on dialogues and captions of the whole world (text alone: held-out ones included)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(num_dialogues, seed), trainer)
    kind: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = kind(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    return wrapped


def _corpus(num_dialogues: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    tables: list[Mapping[str, tuple[str, ...]]] = [SOUND_VERBS]
    for attributes in (WORDS, CLIP_WORDS, SOUND_WORDS):
        tables += attributes.values()
    known = [word for table in tables for synonyms in table.values() for word in synonyms]
    for word in (*known, *MEDIA_WORDS):
        for _ in range(50):  # so that each word of the world is one token
            yield f"{word} a {word} {word}."
    for question, answer in CHAT:
        yield f"{question} {answer}"
    for _ in range(num_dialogues):
        for turn in draw_dialogue(rng, held_out=None):
            for item in (*turn.question, *turn.answer):
                if isinstance(item, str):
                    yield item
                    yield " " + item
        yield caption(draw_partial(draw_scene(rng, held_out=None), rng), rng)
