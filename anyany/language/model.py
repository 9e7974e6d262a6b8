"""The language model: any Hugging Face causal LM with its tokenizer, our signal rows beside it.

The model's own matrices are never resized and never written to; ids from V upwards live in
`SignalRows`. One forward, embeddings in and the last hidden state out, serves training,
generation and caching alike.

Shapes: B batch, T tokens, D language width, V vocabulary, n signal tokens.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anyany.errors import CheckpointError, ConfigError
from anyany.language.adapters import (
    Adapter,
    ExpertsSettings,
    GatedAttentionSettings,
    LoraAdapter,
    LoraSettings,
    ModalityAdapterSettings,
    ModalityExpertSettings,
    build_adapter,
    chosen_adapter,
)
from anyany.language.prompts import TEMPLATES, PromptStyle, Segment, Template, render
from anyany.language.signals import SignalRows, SignalSpec
from anyany.language.text_stream import UNFINISHED, decode_text
from anyany.messages import Message

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
QUANTIZATIONS: Final = ("int8", "nf4")


@dataclass(frozen=True)
class LanguageConfig:
    """Which language model, and how it is loaded and spoken to.

    Args:
        source: a folder or a Hub repository with config.json, safetensors and a tokenizer.
        revision: the Hub revision.
        dtype: one of float32, bfloat16, float16.
        quantization: int8 or nf4 (bitsandbytes), or None.
        attention: transformers' attention implementation, sdpa or eager.
        template: the prompt template's name.
        system: the first line of every conversation; None = the template's own.
        slot_prefix: written before a media slot, such as <Img>.
        slot_suffix: written after a media slot, such as </Img>.
        default_instruction: said for the user when no text came; None = the template's own.
        signals: the signal tokens.
        lora: low-rank updates, or None.
        gated_attention: gated cross-attention to the media, or None.
        modality_adapter: bottlenecks mixed by a modality token, or None.
        modality_expert: weights of their own for the tokens of media, or None.
        experts: several feed-forward parts and a router, or None.

    Raises:
        ConfigError: an unknown dtype, quantization or template, or more than one adapter.
    """

    source: str = ""
    revision: str | None = None
    dtype: str = "float32"
    quantization: str | None = None
    attention: str = "sdpa"
    template: str = "pocket"
    system: str | None = None
    slot_prefix: str = ""
    slot_suffix: str = ""
    default_instruction: str | None = None
    signals: SignalSpec = field(default_factory=SignalSpec)
    lora: LoraSettings | None = None
    gated_attention: GatedAttentionSettings | None = None
    modality_adapter: ModalityAdapterSettings | None = None
    modality_expert: ModalityExpertSettings | None = None
    experts: ExpertsSettings | None = None

    def __post_init__(self) -> None:
        _expect("dtype", self.dtype, tuple(DTYPES))
        _expect("template", self.template, tuple(TEMPLATES))
        _expect("attention", self.attention, ("sdpa", "eager"))
        if self.quantization is not None:
            _expect("quantization", self.quantization, QUANTIZATIONS)
        chosen_adapter(self)  # refuses two


class LanguageModel(nn.Module):
    """A causal language model that also speaks signal tokens.

    Args:
        lm: a Hugging Face causal LM.
        tokenizer: its tokenizer (fast); None where only parameters are counted.
        config: template, signal tokens, adapter.

    Raises:
        ConfigError: the architecture or tokenizer cannot be used.
    """

    def __init__(self, lm: Any, tokenizer: Any, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.lm = lm
        self.lm.eval()
        self.home: torch.device | None = None  # computes there, wherever its weights rest
        embedding = lm.get_input_embeddings()
        self.vocab_size = int(embedding.weight.shape[0])  # V
        self.language_dim = int(embedding.weight.shape[1])  # D
        _check_architecture(lm, tokenizer, self.vocab_size)
        self.signals = config.signals.at(self.vocab_size)
        device = embedding.weight.device
        self.rows = SignalRows(
            self.vocab_size, self.signals.total, language_dim=self.language_dim, device=device
        )
        if device.type != "meta":
            self.rows.init_from(embedding.weight, lm.get_output_embeddings().weight)
        self.template: Template = TEMPLATES[config.template]
        self.adapter: Adapter = build_adapter(config)
        self.adapter.install(lm)

    @classmethod
    def from_pretrained(
        cls, config: LanguageConfig, *, device: torch.device | str = "cpu"
    ) -> LanguageModel:
        """Load the model and tokenizer that `config.source` names. No remote code, no pickles.

        Raises:
            CheckpointError: nothing usable there.
            ConfigError: quantization is asked for and its library is missing.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        quantization = _quantization(config.quantization)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                config.source,
                output_loading_info=True,
                revision=config.revision or "main",
                dtype=DTYPES[config.dtype],
                attn_implementation=config.attention,
                trust_remote_code=False,
                use_safetensors=True,
                **({"quantization_config": quantization} if quantization else {}),
            )
            tokenizer = AutoTokenizer.from_pretrained(
                config.source, revision=config.revision or "main", trust_remote_code=False
            )
        except torch.OutOfMemoryError:
            raise
        except (SafetensorError, RuntimeError):
            raise CheckpointError(
                f"cannot load the language model from {config.source!r}: its weights are torn or "
                "do not fit its config.json"
            ) from None
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"cannot load a language model from {config.source!r}: expected a folder or Hub "
                "repository with config.json, safetensors weights and a tokenizer, and an "
                "architecture that needs no remote code"
            ) from error
        lm, loading = loaded
        if missing := sorted(loading["missing_keys"]):  # which would be left to chance
            raise CheckpointError(
                f"the weights of the language model in {config.source!r} lack {len(missing)} "
                f"tensors of its config.json, first {missing[0]!r}"
            )
        if quantization is None:
            lm = lm.to(device=device)
        return cls(lm, tokenizer, config)

    @classmethod
    def from_config(
        cls,
        config: LanguageConfig,
        architecture: Any,
        *,
        tokenizer: Any = None,
        device: torch.device | str = "meta",
    ) -> LanguageModel:
        """Build the model with fresh weights, or on the meta device with none.

        Args:
            config: template, signal tokens, adapter, dtype.
            architecture: a Hugging Face config, or its values with "model_type".
            tokenizer: its tokenizer, where text will be needed.
            device: "meta" for counting parameters.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        if isinstance(architecture, dict):
            values = dict(architecture)
            architecture = AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.device(device):
            lm = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                architecture, dtype=DTYPES[config.dtype], attn_implementation=config.attention
            )
        return cls(lm, tokenizer, config)

    @property
    def device(self) -> torch.device:
        """Where it computes: where its input rows are, or else its home."""
        weight: Tensor = self.lm.get_input_embeddings().weight
        return self.home or weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of embeddings and hidden states."""
        weight: Tensor = self.lm.get_input_embeddings().weight
        return weight.dtype

    @property
    def context_length(self) -> int:
        """The number of positions that the model was made for."""
        return int(self.lm.config.max_position_embeddings)

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The vocabulary's ids that end a reply."""
        eos = self.tokenizer.eos_token_id
        return () if eos is None else (int(eos),)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Look ids up, signal ids included: long [B, T] -> [B, T, D]."""
        return self.rows.embed(token_ids, self.lm.get_input_embeddings())

    def forward(
        self,
        inputs_embeds: Tensor,
        *,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Run the model's body.

        Args:
            inputs_embeds: [B, T, D].
            attention_mask: True = keep [B, T] (right-padded), or a float mask [B, 1, T, L] as a
                `SlotCache` makes it.
            position_ids: long [B, T]; None = 0..T-1.
            cache: a transformers cache.

        Returns:
            The last hidden state, after the final norm, [B, T, D]; no other is kept.
        """
        output = self.lm.base_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every id: [..., D] -> [..., V + n]."""
        return self.rows.logits(hidden, self._base_logits)

    @property
    def style(self) -> PromptStyle:
        """How prompts are written."""
        return PromptStyle(
            template=self.template,
            system=self.config.system,
            slot_prefix=self.config.slot_prefix,
            slot_suffix=self.config.slot_suffix,
            default_instruction=self.config.default_instruction,
        )

    def render(self, messages: Sequence[Message], *, training: bool = False) -> tuple[Segment, ...]:
        """Turn a conversation into segments in this model's own style; see `prompts.render`.

        Raises:
            PromptError: the conversation is empty or its turns are out of order.
        """
        return render(
            messages,
            tokenizer=self.tokenizer,
            signals=self.signals,
            style=self.style,
            training=training,
        )

    def encode_text(self, text: str) -> list[int]:
        """The ids of a plain text; nothing in it is read as a special token."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """The text of ids; signal tokens and special tokens never show."""
        ids = token_ids.tolist() if isinstance(token_ids, Tensor) else token_ids
        return decode_text(self.tokenizer, [i for i in ids if i < self.vocab_size])

    def save_base(self, folder: str | Path) -> None:
        """Write the base model (safetensors) and tokenizer in transformers' own layout.

        An adapter is left out: it is saved by itself, beside the untouched base.

        Raises:
            CheckpointError: LoRA is merged into the base, which was not kept.
        """
        state = None
        if isinstance(self.adapter, LoraAdapter):
            state = self.adapter.base_state(self.lm)
        self.lm.save_pretrained(str(folder), state_dict=state)
        self.tokenizer.save_pretrained(str(folder))

    def base_hash(self) -> str:
        """SHA-256 over the base's own matrices, names and bytes; LoRA and rows left out.

        Raises:
            CheckpointError: LoRA is merged into them.
        """
        if isinstance(self.adapter, LoraAdapter) and self.adapter.merged:
            raise CheckpointError("the base's hash is taken before LoRA is merged into it")
        digest = hashlib.sha256()
        for name, parameter in sorted(self.lm.named_parameters()):
            if ".lora_" not in name:
                digest.update(name.replace(".base_layer.", ".").encode())
                flat = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(flat.numpy().tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def blank_ids(self) -> Tensor:
        """Bool [V]: ids that by themselves show a reader nothing, or half a character."""
        known = min(len(self.tokenizer), self.vocab_size)
        texts = self.tokenizer.batch_decode(
            [[i] for i in range(known)],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        blank = torch.ones(self.vocab_size, dtype=torch.bool)
        blank[:known] = torch.tensor([not text.strip() or UNFINISHED in text for text in texts])
        return blank

    def _base_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm.get_output_embeddings()(hidden)
        return logits


def _expect(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"language.{key}: expected one of {', '.join(allowed)}; got {value!r}")


def _check_architecture(lm: Any, tokenizer: Any, vocab_size: int) -> None:
    accepted = inspect.signature(lm.base_model.forward).parameters
    missing = {"inputs_embeds", "position_ids", "past_key_values"} - accepted.keys()
    if missing or lm.get_output_embeddings() is None:
        raise ConfigError(
            "expected a decoder-only language model with explicit positions and a key-value "
            f"cache; {lm.config.model_type} takes no {', '.join(sorted(missing)) or 'output head'}"
        )
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(lm.config, name, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"{lm.config.model_type} changes its logits by {name}, which signal rows beside "
                "its head do not follow; expected a model with a plain linear head"
            )
    if tokenizer is None:
        return
    if not tokenizer.is_fast:
        raise ConfigError("expected a fast tokenizer (tokenizer.json), got a slow one")
    if len(tokenizer) > vocab_size:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} tokens, the language model rows for {vocab_size}"
        )


def _quantization(kind: str | None) -> Any:
    if kind is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization {kind!r} needs bitsandbytes: pip install 'anyany[quantization]'"
        )
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
