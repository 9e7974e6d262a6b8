"""`anyany pocket build`: train all of pocket from nothing, part by part, resumable.

First the parts (`build_parts`), then the alignment stages on the system that they make, in
`system`. What has left its weights is not trained again; what was interrupted goes on where it
was.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch

from anyany.alignment.mixing import MixedSource
from anyany.alignment.samples import SampleSource
from anyany.alignment.stages import StageConfig, run_stage
from anyany.config import load_config
from anyany.decoders.shared import share
from anyany.errors import UsageError
from anyany.language.adapters import ADAPTER_WEIGHTS
from anyany.media import write_json
from anyany.pocket import build_parts
from anyany.pocket.build_parts import BuildSettings, PartBuilder, TimeLimitReached, check_finished
from anyany.pocket.samples import (
    MEDIA,
    SEEN,
    DescribeSource,
    DialogueSource,
    DrawSource,
    NamelessSource,
)
from anyany.pocket.stage_samples import world_samples
from anyany.system import AnyToAny
from anyany.weights import read_tensors, save_tensors, to_half, write_manifest

__all__ = [
    "PARTS",
    "STAGES",
    "BuildSettings",
    "build",
    "merge_adapter",
    "pack",
    "stage_config",
    "stage_source",
]

logger = logging.getLogger(__name__)

_PEFT_PREFIX: Final = "base_model.model."  # of names in an adapter's file

KEPT_STATES: Final = 6000  # conversations whose signal states stage 2b keeps
STAGES: Final = ("encoder", "decoder", "projectors", "instruct", "refine")
SHOWN: Final = ("encoder", "instruct")  # stages that learn to describe
PARTS: Final = (*build_parts.PARTS, *STAGES)


def build(settings: BuildSettings, *, only: Sequence[str] = ()) -> Path | None:
    """Build pocket, or some of its parts.

    Args:
        settings: where and how.
        only: parts to build; empty for all that are missing.

    Returns:
        The system's folder, or None if the time limit came first or parts are missing.

    Raises:
        UsageError: an unknown part, or one whose ground is missing.
    """
    strange = sorted(set(only) - set(PARTS))
    if strange:
        raise UsageError(f"expected parts among {', '.join(PARTS)}; got {strange[0]!r}")
    builder = PartBuilder(settings)
    try:
        for name in PARTS:
            if only and name not in only:
                continue
            if builder.done(name):
                logger.info("%s: done before", name)
                continue
            logger.info("%s: begins", name)
            torch.manual_seed(0)  # fresh weights are the same in every build
            if name in STAGES:
                _run_stage(builder, name)
            else:
                builder.build(name)
            builder.mark_done(name)
    except TimeLimitReached:
        logger.info("the time limit is reached; the same command goes on from here")
        return None
    system = settings.folder / "system"
    return system if builder.done("refine") else None


def pack(system: Path, folder: Path) -> Path:
    """Write a system's folder as it ships: float16, what answers need and nothing twice."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(system, folder)
    for path in folder.rglob("*.json"):  # diffusers notes where weights came from
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _without_text_tower(folder)
    merge_adapter(folder)
    to_half(folder)
    share([folder / "decoders" / name for name in MEDIA if (folder / "decoders" / name).is_dir()])
    write_manifest(folder)
    return folder


def _without_text_tower(folder: Path) -> None:
    """Drop the encoder's tower for text: training alone needs it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["encoder"]["imagebind"]["text"] = None
    write_json(config, folder / "config.json")
    path = folder / config["encoder"]["source"]
    tensors = read_tensors(path, "the encoder")
    kept = {name: tensor for name, tensor in tensors.items() if ".text." not in name}
    save_tensors(kept, path, None)


def merge_adapter(folder: Path) -> None:
    """Fold LoRA into the language model: training it further begins with a fresh one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    lora = config["language"].pop("lora", None)
    if lora is None:
        return
    write_json(config, folder / "config.json")
    updates = read_tensors(folder / "adapter" / ADAPTER_WEIGHTS, "the adapter")
    path = folder / config["language"]["source"] / "model.safetensors"
    base = read_tensors(path, "the language model")
    for name, down in updates.items():
        if name.endswith(".lora_A.weight"):
            up = updates[name.replace(".lora_A.", ".lora_B.")]
            own = name.removeprefix(_PEFT_PREFIX).replace(".lora_A.", ".")
            base[own] += up @ down * (lora["alpha"] / lora["r"])
    save_tensors(base, path, {"format": "pt"})
    shutil.rmtree(folder / "adapter")


def _run_stage(builder: PartBuilder, name: str) -> None:
    """One alignment stage on the system as it stands."""
    settings = builder.settings
    folder = settings.folder / "system"
    if not builder.done("system"):
        raise UsageError(f"{name} needs the part system: build it first")
    system = AnyToAny.from_pretrained(folder, device=settings.device, threads=None)
    config = stage_config(name)
    result = run_stage(
        system.bridge,
        system.output_projectors,
        cast("Mapping[str, Any]", system.decoders),
        stage_source(name),
        dataclasses.replace(config, train=builder.settings_of(config.train)),
        settings.run(name),
        validation=DialogueSource(purpose="validation", all_media=True),
        sample_media=world_samples(system, draws=name != "encoder", describes=name in SHOWN),
        progress=settings.progress,
    )
    check_finished(result.reason)
    system.save_pretrained(folder)


def stage_config(name: str) -> StageConfig:
    """The settings of one of pocket's alignment stages, from configs/stages."""
    from importlib.resources import as_file, files

    with as_file(files("anyany") / "configs" / "stages" / f"pocket-{name}.yaml") as path:
        return load_config(Path(path), StageConfig)


def stage_source(name: str) -> SampleSource:
    """What a stage learns from."""
    if name == "encoder":
        return MixedSource(
            [DescribeSource(SEEN), DescribeSource(("audio",)), NamelessSource(turns=False)],
            [0.15, 0.2, 0.65],
        )
    if name == "decoder":
        return DrawSource(modalities=MEDIA)
    if name == "projectors":
        return DrawSource(num_samples=KEPT_STATES, modalities=MEDIA)
    if name == "refine":
        return DialogueSource(num_samples=KEPT_STATES, all_media=True)
    sources: list[SampleSource] = [
        DialogueSource(all_media=True),
        DescribeSource(SEEN),
        NamelessSource(turns=True),
    ]
    return MixedSource(sources, [0.4, 0.2, 0.4])
