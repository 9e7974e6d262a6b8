"""The names of NExT-GPT's published tensors, of both generations, and what each becomes here.

Names are made canonical first (both historic prefixes, peft's `.default` or none), then compared
with all that the configuration says there must be: every key has one slot, every slot one key.

Shapes: V vocabulary, n signal tokens, D language width, r rank of LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from anyany.decoders import ConditionSpec, OutputProjector
from anyany.encoders import ImageBind, build_projector
from anyany.errors import CheckpointError, ConfigError
from anyany.language import LoraSettings
from anyany.published.tensors import Stored
from anyany.system_config import SystemConfig

Generation = Literal["v0", "v1.5"]
Shape = tuple[int, ...]
EMBED: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"
MAX_NAMED: Final = 3  # names per kind of mismatch in an error line
_V0_PEFT: Final = "llama_model.base_model.model."
_V0_PLAIN: Final = "llama_model."
_V0_HEADS: Final = {
    "image": "gen_text_hidden_fcs.0.",
    "video": "gen_text_hidden_fcs_video.0.",
    "audio": "gen_text_hidden_fcs_audio.0.",
}
_V15_HEADS: Final = {
    "image": "model.mm_output_img_projector.",
    "video": "model.mm_output_vid_projector.",
    "audio": "model.mm_output_aud_projector.",
}
_V15_INPUT: Final = "model.mm_input_projector."
TOWER: Final = "model.multimodal_tower.multimodal_tower."
CONSTANT: Final = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Slot:
    """Where a published tensor goes.

    Args:
        part: embed, head, lora, input, base, encoder, or an output's modality.
        name: in the part's own file.
        shape: it must have.
    """

    part: str
    name: str
    shape: Shape


def canonical(key: str, generation: Generation) -> str:
    """One spelling for the same tensor: with peft's prefix for v0, without for v1.5."""
    key = re.sub(r"\.(lora_[AB])\.default\.weight$", r".\1.weight", key)
    if generation == "v0":
        if key.startswith(_V0_PLAIN) and not key.startswith(_V0_PEFT):
            return _V0_PEFT + key.removeprefix(_V0_PLAIN)
        return key
    key = key.removeprefix("base_model.model.")
    while key.startswith("model.model."):
        key = key.removeprefix("model.")
    return HEAD if key == f"model.{HEAD}" else key


def expected_slots(
    config: SystemConfig,
    generation: Generation,
    conditions: Mapping[str, ConditionSpec],
    *,
    lora: LoraSettings | None,
    merged: bool = False,
    tower: bool = False,
) -> dict[str, Slot]:
    """Everything that a checkpoint must hold, by canonical name.

    Args:
        config: sizes of every part.
        generation: which names.
        conditions: of the decoders, by modality.
        lora: of the checkpoint's low-rank updates, if it has any.
        merged: the language model's own weights are in it too.
        tower: ImageBind's weights are in it too.

    Raises:
        ConfigError: the configuration does not say the sizes, or has a projector per modality.
    """
    if config.bridge.sharing != "shared":
        raise ConfigError("bridge.sharing: NExT-GPT has one input projector: expected shared")
    base = base_shapes(config)
    rows = base[EMBED][0] + config.language.signals.total
    width = base[EMBED][1]
    prefix = _V0_PEFT if generation == "v0" else ""
    slots = {
        prefix + EMBED: Slot("embed", EMBED, (rows, width)),
        prefix + HEAD: Slot("head", HEAD, (rows, width)),
    }
    if lora is not None:
        for name, shape in lora_shapes(base, lora).items():
            slots[prefix + name] = Slot("lora", f"base_model.model.{name}", shape)
    slots |= _input_slots(config, generation)
    heads = _V0_HEADS if generation == "v0" else _V15_HEADS
    for modality, spec in conditions.items():
        with torch.device("meta"):
            projector = OutputProjector.from_config(
                width, spec, config.decoders[modality].output_projector
            )
        for name, shape in shapes_of(projector).items():
            theirs = heads[modality] + _head_name(name, generation)
            slots[theirs] = Slot(modality, name, shape)
    if merged:
        own = {name: shape for name, shape in base.items() if name not in (EMBED, HEAD)}
        slots |= {name: Slot("base", name, shape) for name, shape in own.items()}
    if tower:
        with torch.device("meta"):
            imagebind = ImageBind(config.encoder.imagebind)
        for name, shape in shapes_of(imagebind).items():
            slots[TOWER + name] = Slot("encoder", name, shape)
    return slots


def fill(
    found: Mapping[str, Stored],
    slots: Mapping[str, Slot],
    source: str,
    *,
    hint: str = "",
) -> dict[str, dict[str, Stored]]:
    """Put every tensor in its slot: part -> name -> tensor.

    Args:
        found: tensors by canonical name.
        slots: expected_slots.
        source: what to call the checkpoint.
        hint: what may help when something is missing.

    Raises:
        CheckpointError: a key is missing or unknown, or a shape differs; all in one line.
    """
    missing = [key for key in slots if key not in found]
    unknown = [key for key in found if key not in slots and not CONSTANT.fullmatch(key)]
    wrong = [
        f"{key} (expected {list(slot.shape)}, got {list(found[key].shape)})"
        for key, slot in slots.items()
        if key in found and found[key].shape != slot.shape
    ]
    problems = [
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        advice = f"; {hint}" if missing and hint else ""
        raise CheckpointError(
            f"{source}: the tensors do not fit the configuration; {'; '.join(problems)}{advice}"
        )
    parts: dict[str, dict[str, Stored]] = {}
    for key, slot in slots.items():
        parts.setdefault(slot.part, {})[slot.name] = found[key]
    return parts


def base_shapes(config: SystemConfig) -> dict[str, Shape]:
    """Names and shapes of the language model's own weights, [V, D] its rows.

    Raises:
        ConfigError: the configuration does not say them.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(architecture(config))  # type: ignore[no-untyped-call]
    shapes = shapes_of(model)
    if EMBED not in shapes or HEAD not in shapes:
        raise ConfigError("language_architecture: expected a Llama with a head of its own")
    return shapes


def architecture(config: SystemConfig) -> Any:
    """The Hugging Face configuration of the language model.

    Raises:
        ConfigError: there is none, or transformers does not know it.
    """
    from transformers import AutoConfig

    values = dict(config.language_architecture)
    try:
        return AutoConfig.for_model(values.pop("model_type"), **values)
    except (KeyError, ValueError, TypeError):
        raise ConfigError(
            "language_architecture: expected the values of a language model with its model_type"
        ) from None


def lora_shapes(base: Mapping[str, Shape], lora: LoraSettings) -> dict[str, Shape]:
    """Names and shapes of LoRA's matrices: A [r, in] and B [out, r] of every target."""
    shapes: dict[str, Shape] = {}
    for name, shape in base.items():
        site = name.removesuffix(".weight")
        if site.rpartition(".")[2] in lora.target_modules and len(shape) == 2:
            shapes[f"{site}.lora_A.weight"] = (lora.r, shape[1])
            shapes[f"{site}.lora_B.weight"] = (shape[0], lora.r)
    return shapes


def shapes_of(module: Any) -> dict[str, Shape]:
    """Names and shapes of a module's state."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _input_slots(config: SystemConfig, generation: Generation) -> dict[str, Slot]:
    with torch.device("meta"):
        projector = build_projector(config.bridge.projector)
    linear = config.bridge.projector.type == "linear"
    if generation == "v0" and not linear:
        raise ConfigError("bridge.projector.type: NExT-GPT v0 has a linear one")
    prefix = "llama_proj." if generation == "v0" else _V15_INPUT
    return {
        prefix + (name.removeprefix("layer.") if linear else name): Slot("input", name, shape)
        for name, shape in shapes_of(projector).items()
    }


def _head_name(name: str, generation: Generation) -> str:
    """The published name of a head's tensor; ours are `heads.CONDITION.NAME`."""
    own = name.split(".", 2)[2]
    if generation == "v1.5":
        return own
    first, dot, rest = own.partition(".")
    return {"in_fc": "fc", "out_fc": "model"}.get(first, first) + dot + rest


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
