"""Toys for the language tests: tokenizers made on the spot, tiny models, a naive decode loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from anyany.language import DecodeRequest, LanguageConfig, LanguageModel, SignalSpec
from anyany.messages import MEDIA_MODALITIES, Modality

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>"]
SMALL = SignalSpec(image=4, video=6, audio=3)
SPACED = SignalSpec(image=4, video=6, audio=3, stride=2, separator_id=7)


def word_tokenizer(num_words: int = 26) -> PreTrainedTokenizerFast:
    """Whole words w0, w1, ...; the kind that pocket has."""
    words = SPECIALS + [f"w{i}" for i in range(num_words)]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return _wrap(backend)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: a letter may take several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return _wrap(backend)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Words that begin with a blank, byte fallback, as Llama's tokenizer has."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=[*SPECIALS, *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return _wrap(backend)


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )


_CORPUS = [
    "USER: describe the picture ASSISTANT: a small red bell, moving left</s>",
    "### Human: what is this?\n### Assistant: It's a naïve café, 10 €.\n###",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives",
    "hello there, the quick brown fox jumps over the lazy dog; sure thing!",
] * 3


def small_llama(vocab_size: int, *, layers: int = 2, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
        )
    )


def small_neox(vocab_size: int) -> GPTNeoXForCausalLM:
    torch.manual_seed(1)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
        )
    )


def small_qwen(vocab_size: int) -> Qwen2ForCausalLM:
    """Half of the layers see a window of 12 positions only."""
    torch.manual_seed(2)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            use_sliding_window=True,
            sliding_window=12,
            max_window_layers=1,
        )
    )


def toy_model(
    lm: Any = None,
    *,
    tokenizer: Any = None,
    config: LanguageConfig | None = None,
    loudness: float = 30.0,
) -> LanguageModel:
    """A language model of random weights whose logits are far apart."""
    tokenizer = tokenizer or word_tokenizer()
    lm = lm or small_llama(len(tokenizer))
    with torch.no_grad():
        for matrix in (lm.get_input_embeddings().weight, lm.get_output_embeddings().weight):
            matrix.mul_(loudness)
    model = LanguageModel(lm, tokenizer, config or LanguageConfig(signals=SMALL))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        scale = float(lm.get_output_embeddings().weight.std())
        for rows in (model.rows.input_rows, model.rows.output_rows):
            rows.copy_(scale * torch.randn(rows.shape, generator=generator))
    return model


def prompt_of(model: LanguageModel, length: int, seed: int) -> Tensor:
    """Embeddings [length, D] of random words."""
    generator = torch.Generator().manual_seed(seed)
    low, high = len(SPECIALS), len(model.tokenizer)
    ids = torch.randint(low, high, (1, length), generator=generator)
    with torch.no_grad():
        return model.embed(ids)[0]


@dataclass
class NaiveReply:
    """What `naive_decode` found."""

    token_ids: list[int]
    spans: list[tuple[Modality, Tensor]]
    finish_reason: str


@torch.no_grad()
def naive_decode(model: LanguageModel, request: DecodeRequest, max_spans: int = 4) -> NaiveReply:
    """The same rules, written as they read: no cache, no batch, all recomputed every step."""
    signals, outputs = model.signals, request.outputs
    reply = NaiveReply([], [], "length")
    while len(reply.token_ids) < request.max_new_tokens:
        done = [modality for modality, _ in reply.spans]
        owed = [m for m in MEDIA_MODALITIES if outputs and m in outputs and m not in done]
        words = [i for i in reply.token_ids if i < model.vocab_size and i != signals.separator_id]
        text_owed = bool(outputs and "text" in outputs and not model.decode(words).strip())
        left = request.max_new_tokens - len(reply.token_ids)
        reserve = sum(signals.span_length(m) for m in owed) + text_owed
        start: Modality | None = None
        if left <= reserve and not text_owed:
            start = owed[0]
        else:
            scores = model.logits(_last(model, request.prompt, reply.token_ids)[-1]).clone()
            for token_id in range(len(scores)):
                modality = signals.modality_of(token_id)
                if modality:
                    after = reserve - (signals.span_length(modality) if modality in owed else 0)
                    if (
                        token_id != signals.ids(modality)[0]
                        or (outputs is not None and modality not in outputs)
                        or done.count(modality) >= max_spans
                        or left - signals.span_length(modality) < after
                    ):
                        scores[token_id] = -torch.inf
                elif text_owed and (
                    token_id in model.stop_ids
                    or (left <= reserve and not model.decode([token_id]).strip())
                ):
                    scores[token_id] = -torch.inf
            chosen = int(scores.argmax())
            start = signals.modality_of(chosen)
            if chosen in model.stop_ids:
                if not owed:
                    reply.finish_reason = "stop"
                    break
                start = owed[0]
            elif start is None:
                reply.token_ids.append(chosen)
        if start:
            reply.token_ids.extend(signals.span(start))
            states = _last(model, request.prompt, reply.token_ids)
            reply.spans.append((start, states[-signals.span_length(start) :]))
    return reply


def _last(model: LanguageModel, prompt: Tensor, token_ids: Sequence[int]) -> Tensor:
    """All last hidden states of prompt and reply, in one uncached pass."""
    embedded = prompt[None]
    if token_ids:
        embedded = torch.cat([embedded, model.embed(torch.tensor([list(token_ids)]))], dim=1)
    hidden: Tensor = model(embedded)[0]
    return hidden
