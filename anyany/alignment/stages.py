"""The stages of alignment: what trains in each, and the one function that runs one.

    | name               | trains                                       | NExT-GPT's |
    | encoder            | input projectors                             | stage 1    |
    | decoder            | signal rows, output projectors, LLM in loop  | stage 2    |
    | decoder_projectors | output projectors on kept signal states      | stage 2b   |
    | instruct           | LoRA, both kinds of projectors, signal rows  | stage 3    |

The decoders train in none; the language model's own matrices, the encoders, and what a bridge puts
into them, only where `trainable` names it. A stage's settings are a `StageConfig`, in YAML under
`configs/stages`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import torch
from torch import nn

from anyany.alignment.caches import DiskStore, MemoryStore, TensorStore
from anyany.alignment.formats import DataFile
from anyany.alignment.freezing import set_trainable
from anyany.alignment.order import derive_seed
from anyany.alignment.ranks import Ranks
from anyany.alignment.recompute import recomputed_layers
from anyany.alignment.samples import SampleSource
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stage_tasks import ConversationTask, ProjectorTask, SampleMedia
from anyany.alignment.train_config import TrainConfig
from anyany.alignment.trainer import TrainResult, load_trained, train
from anyany.alignment.training_state import set_training_mode
from anyany.bridges import Bridge
from anyany.config import to_dict
from anyany.decoders import Decoder
from anyany.encoders import Encoder
from anyany.errors import ConfigError, RefusedError
from anyany.language import HookedAdapter, LoraAdapter, LoraSettings
from anyany.media import write_json

logger = logging.getLogger(__name__)

StageName: TypeAlias = Literal["encoder", "decoder", "decoder_projectors", "instruct"]
Part: TypeAlias = Literal[
    "input_projectors",
    "signal_rows",
    "output_projectors",
    "lora",
    "adapter",
    "tile_lora",
    "routed_adapter",
    "encoders",
    "language_model",
]

# What can be trained, and the parameters that it names in `StageParts.module`.
PARTS: Final[Mapping[str, str]] = {
    "input_projectors": "input_projectors",
    "signal_rows": "signal_rows",
    "output_projectors": "output_projectors",
    "lora": "language_model.*.lora_*",
    "adapter": "adapter",  # any other than LoRA
    "tile_lora": "encoders.*.lora_*",
    "routed_adapter": "encoders.*.adapter.*",
    "encoders": "encoders",  # of them, the towers of the system's modalities
    "language_model": "language_model",
}
TRAINABLE: Final[Mapping[str, tuple[Part, ...]]] = {
    "encoder": ("input_projectors",),
    "decoder": ("signal_rows", "output_projectors"),
    "decoder_projectors": ("output_projectors",),
    "instruct": ("lora", "input_projectors", "output_projectors", "signal_rows"),
}
SETTINGS: Final = "stage.json"


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    Args:
        name: which one.
        train: how long, how fast and how safely.
        trainable: the parts that train; null for the stage's own of `TRAINABLE`.
        losses: what counts how much.
        data: files to learn from; may be empty where a source is handed in.
        validation: files that `evaluate` measures the loss on.
        validation_samples: at most so many of them.
        lora: put into the language model if "lora" trains and it has none.
        lr_scales: part -> times the learning rate.
        cache: folder for encoder features, embedded captions and signal states; null keeps them
            in memory.
        cache_bytes: kept in memory at most.
        gradient_checkpointing: compute the language model's layers again in the backward pass:
            a third slower, and their activations take no memory.

    Raises:
        ConfigError: parts and stage do not fit.
    """

    name: StageName
    train: TrainConfig
    trainable: tuple[Part, ...] | None = None
    losses: LossWeights = field(default_factory=LossWeights)
    data: tuple[DataFile, ...] = ()
    validation: tuple[DataFile, ...] = ()
    validation_samples: int = 256
    lora: LoraSettings = field(default_factory=LoraSettings)
    lr_scales: dict[str, float] = field(default_factory=dict)
    cache: Path | None = None
    cache_bytes: int = 2 << 30
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        strange = [*(set(self.parts) - set(PARTS)), *(set(self.lr_scales) - set(self.parts))]
        if strange or not self.parts:
            raise ConfigError(
                f"stage {self.name}: expected trainable among {', '.join(PARTS)}, and lr_scales "
                f"for parts that train; got {', '.join(strange) or 'nothing to train'}"
            )
        if self.name == "decoder_projectors" and self.parts != ("output_projectors",):
            raise ConfigError(
                "stage decoder_projectors keeps signal states, so that only output_projectors can "
                f"train; got {', '.join(self.parts)}: use stage decoder"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """What trains."""
        return TRAINABLE[self.name] if self.trainable is None else self.trainable


def run_stage(
    bridge: Bridge,
    output_projectors: nn.ModuleDict,
    decoders: Mapping[Any, Decoder],
    source: SampleSource,
    config: StageConfig,
    folder: str | Path,
    *,
    validation: SampleSource | None = None,
    sample_media: SampleMedia | None = None,
    progress: bool | None = None,
    allow_changed: bool = False,
) -> TrainResult:
    """Freeze what the stage does not train, log the table, and train; resumes if begun before.

    The system ends with the trained weights (their moving average, if one is kept), in evaluation
    mode.

    Args:
        bridge: encoders, input projectors, language model and signal rows; LoRA is put in if the
            stage trains it and there is none.
        output_projectors: modality -> OutputProjector.
        decoders: modality -> decoder, for captions (and the denoising loss).
        source: what to learn from.
        config: the stage.
        folder: of the run: checkpoints, metrics, evaluations.
        validation: what evaluations measure the loss on.
        sample_media: writes samples into the folder that it is given; returns figures.
        progress: show a bar; None: if stderr is a terminal.
        allow_changed: resume although settings that change the result differ.

    Raises:
        ConfigError: the stage's LoRA is not the language model's.
        RefusedError: the folder is locked, or its run was another stage or had other settings.
        UsageError: the samples do not fit the system, and all that `trainer.train` raises.
    """
    folder = Path(folder)
    _check_settings(config, folder, allow_changed=allow_changed)
    prepare_adapter(bridge, config)
    store: TensorStore = (
        MemoryStore(config.cache_bytes) if config.cache is None else DiskStore(config.cache)
    )
    kind = ProjectorTask if config.name == "decoder_projectors" else ConversationTask
    task = kind(
        StageParts(bridge, output_projectors, decoders),
        source,
        config.losses,
        store=store,
        validation=validation,
        validation_samples=config.validation_samples,
        sample_media=sample_media,
        lr_scales=_module_scales(config),
    )
    set_trainable(task.module, _patterns(config, bridge, task.module))
    bridge.changed |= {"encoders", "language_model"} & set(config.parts)
    lm = bridge.language.lm
    try:
        with recomputed_layers(lm) if config.gradient_checkpointing else nullcontext():
            result = train(
                task, config.train, folder, progress=progress, allow_changed=allow_changed
            )
    finally:
        store.flush()
        set_training_mode(task.module, training=False)
    if config.train.ema is not None:
        load_trained(folder, task.module)
    return result


def prepare_adapter(bridge: Bridge, config: StageConfig) -> None:
    """Put LoRA in if the stage trains it and there is none; take a merged one out of the base.

    Raises:
        ConfigError: the language model has LoRA of other sizes, or another adapter.
        UsageError: it was merged for good.
    """
    language = bridge.language
    adapter = language.adapter
    if isinstance(adapter, LoraAdapter):
        if adapter.merged:
            adapter.unmerge()
        if "lora" in config.parts and adapter.settings != config.lora:
            raise ConfigError(
                f"lora: the language model has {adapter.settings}, the stage asks for "
                f"{config.lora}: set the stage's to the model's"
            )
        return
    if "lora" in config.parts:
        if isinstance(adapter, HookedAdapter):
            raise ConfigError(
                f"lora: the language model has {adapter.kind}, beside which there is none: train "
                "the part adapter instead"
            )
        language.config = dataclasses.replace(language.config, lora=config.lora)
        language.adapter = LoraAdapter(config.lora)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("lora", config.train.seed))
            language.adapter.install(language.lm)


def _patterns(config: StageConfig, bridge: Bridge, module: nn.Module) -> list[str]:
    """What `set_trainable` is to train."""
    patterns = [PARTS[part] for part in config.parts if part != "encoders"]
    if "encoders" in config.parts:
        encoders = [cast("Encoder", encoder) for encoder in bridge.encoders.values()]
        own = {id(parameter) for encoder in encoders for parameter in encoder.own_parameters()}
        patterns += [name for name, p in module.named_parameters() if id(p) in own]
    return patterns


def _module_scales(config: StageConfig) -> dict[str, float]:
    """The scales by the name of the module that holds a part."""
    return {PARTS[part].partition(".")[0]: scale for part, scale in config.lr_scales.items()}


def _check_settings(config: StageConfig, folder: Path, *, allow_changed: bool) -> None:
    """Write down what a run is, or refuse to go on with another in its folder."""
    now = {key: value for key, value in to_dict(config).items() if key in _FIXED}
    now["trainable"] = list(config.parts)
    path = folder / SETTINGS
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in now if saved.get(key) != now[key])
        if changed and not allow_changed:
            raise RefusedError(
                f"the run in this folder was made with other settings of {', '.join(changed)}; "
                "use its settings, another folder, or allow the change"
            )
    if Ranks.current().first:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(now, path)


_FIXED: Final = ("name", "losses", "data", "lora", "lr_scales")
