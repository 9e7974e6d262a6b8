"""What every bridge is built between in a comparison: a frozen encoder and a frozen language model.

The encoder is a system's own ImageBind, pocket's as it ships. The language model is small enough to
train dozens of bridges to it on a laptop; it learns to answer from words in any order, never from
media: what is left to learn is the bridge.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from anyany.alignment.freezing import set_trainable
from anyany.alignment.order import derive_seed
from anyany.alignment.samples import ListSource, Sample
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stage_tasks import ConversationTask
from anyany.alignment.trainer import TrainConfig, load_trained, train
from anyany.bridges import Bridge, BridgeConfig
from anyany.bridges.recipe import AdapterConfig
from anyany.encoders import ImageBind, PreprocessingConfig, ProjectorConfig, load_imagebind
from anyany.errors import Cancelled
from anyany.language import LanguageConfig, LanguageModel
from anyany.pocket.bridge_task import build_word_tokenizer, draw_lesson
from anyany.system_files import find, read_config

HOST_STEPS: Final = 300
TEXT_ONLY: Final = LossWeights(signal=0.0, condition=0.0)
CONTEXT: Final = 1024  # positions of the small language model
_BATCH: Final = 32


@dataclass(frozen=True, eq=False)
class Host:
    """The frozen parts that every bridge of a comparison has in common.

    Args:
        imagebind: the encoder.
        preprocessing: sizes that its towers need.
        language: the language model, without an adapter.
        name: what to call the two.
    """

    imagebind: ImageBind
    preprocessing: PreprocessingConfig
    language: LanguageModel
    name: str

    @property
    def modalities(self) -> tuple[str, ...]:
        """Media that the encoder takes."""
        towers = set(self.imagebind.config.modalities)
        return tuple(
            modality
            for modality, tower in (("image", "vision"), ("video", "vision"), ("audio", "audio"))
            if tower in towers
        )

    def copy(self) -> Host:
        """With weights of its own, for a bridge that may change them."""
        return Host(
            copy.deepcopy(self.imagebind),
            self.preprocessing,
            copy.deepcopy(self.language),
            self.name,
        )


class Lessons:
    """Text alone, without end: see `draw_lesson`."""

    num_samples = None

    def sample(self, index: int, epoch: int) -> Sample:
        """The lesson at `index`, in every epoch the same."""
        return draw_lesson(random.Random(f"lesson:{index}"))


def load_encoder(source: str) -> tuple[ImageBind, PreprocessingConfig]:
    """The encoder of a system, in float32.

    Args:
        source: pocket, or a system's folder or Hub name.

    Raises:
        CheckpointError, ConfigError: there is no usable system.
    """
    folder = find(source)
    config = read_config(folder).encoder
    imagebind = load_imagebind(folder / config.source, config.imagebind, dtype=torch.float32)
    return imagebind.eval(), config.preprocessing


def build_small_language(seed: int = 0) -> LanguageModel:
    """A Llama of two layers over the words of the tasks, with fresh weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_word_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("bridge host", seed))
        lm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=False,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        return LanguageModel(lm, tokenizer, LanguageConfig())


def make_host(
    folder: Path, *, encoder: str = "pocket", steps: int = HOST_STEPS, device: str = "cpu"
) -> Host:
    """Load the encoder and teach the small language model; a second call finds it in the folder.

    Args:
        folder: of the language model's run.
        encoder: the system whose ImageBind is used.
        steps: of the language model's training.
        device: where it trains.

    Raises:
        Cancelled: a signal stopped the training.
        RefusedError: the folder holds a training of other settings.
        CheckpointError, ConfigError: there is no usable system.
    """
    imagebind, preprocessing = load_encoder(encoder)
    language = build_small_language()
    # A bridge without encoders: words take the same way as everything else.
    bare = BridgeConfig(ProjectorConfig(encoder_dim=1, language_dim=language.language_dim))
    parts = StageParts(Bridge({}, language, bare), torch.nn.ModuleDict(), {})
    task = ConversationTask(parts, Lessons(), TEXT_ONLY)
    set_trainable(task.module, ["language_model"])
    config = TrainConfig(
        steps=steps, batch_size=_BATCH, lr=3e-3, warmup=50, device=device, log_every=50, keep=1
    )
    result = train(task, config, folder, progress=False)
    if result.reason != "finished":
        raise Cancelled("the small language model is not trained yet: the same command goes on")
    load_trained(folder, task.module)
    language.requires_grad_(False).eval()
    return Host(
        imagebind.requires_grad_(False), preprocessing, language, f"{encoder} + small llama"
    )


def system_host(source: str, *, device: str = "cpu") -> Host:
    """The encoder and the language model of a system, without what was trained between them.

    Args:
        source: pocket, or a system's folder or Hub name.
        device: of the language model.

    Raises:
        CheckpointError, ConfigError: there is no usable system.
    """
    imagebind, preprocessing = load_encoder(source)
    folder = find(source)
    config = read_config(folder).language
    inside = folder / config.source
    named = str(inside) if inside.exists() else config.source
    bare = AdapterConfig().put_into(replace(config, source=named, dtype="float32"))
    language = LanguageModel.from_pretrained(bare, device=device)
    language.requires_grad_(False).eval()
    return Host(imagebind.requires_grad_(False), preprocessing, language, source)


def text_lessons(size: int = 64) -> ListSource:
    """Lessons that no training had, to see what a language model has forgotten."""
    return ListSource([draw_lesson(random.Random(f"text:{n}")) for n in range(size)])
