"""Which files a checkpoint is made of, and all their tensors under one spelling.

v0 is one file. v1.5 is left behind by its stages: a file of the input projector, one of the output
projectors, a LoRA folder with what else was trained, or one folder with everything merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language import LoraSettings
from anyany.language.adapters import read_settings
from anyany.published.layouts import Generation, canonical
from anyany.published.tensors import Stored, list_folder, list_tensors, weight_files
from anyany.system_config import SystemConfig

# Files of v1.5's training in the order of its stages: where two hold a tensor, the later counts.
STAGE_FILES: Final = (
    "mm_input_projector",
    "mm_output_projector",
    "adapter_model",
    "non_lora_trainables",
)
_ENDINGS: Final = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class Gathered:
    """A checkpoint's tensors.

    Args:
        found: by canonical name.
        lora: settings of its low-rank updates, if it has any.
        merged: the folder that also holds the language model, if there is one.
        overridden: tensors that a later stage's file replaced.
    """

    found: Mapping[str, Stored]
    lora: LoraSettings | None
    merged: Path | None
    overridden: int


def gather(
    generation: Generation, config: SystemConfig, paths: Sequence[Path], scratch: Path
) -> Gathered:
    """List a checkpoint's tensors.

    Args:
        generation: whose layout.
        config: says the LoRA settings of v0, which has no file for them.
        paths: files and folders, in any order.
        scratch: for what pickles are turned into.

    Raises:
        CheckpointError: a file is missing, torn, not trusted, or names a tensor twice.
        UsageError: the paths do not make one checkpoint.
    """
    if generation == "v0":
        if len(paths) != 1 or paths[0].is_dir():
            raise UsageError("expected one file, the published pytorch_model.pt")
        found = _canonical(list_tensors(paths[0], scratch), generation)
        return Gathered(found, _v0_lora(found, config, paths[0]), None, 0)
    gathered: dict[str, Stored] = {}
    lora, merged, overridden = None, None, 0
    for path in _in_order(paths):
        if path.is_dir():
            merged, listed = path, list_folder(path, scratch)
        else:
            listed = list_tensors(path, scratch)
        if path.stem == "adapter_model":
            lora = read_settings(path.parent)
        came = _canonical(listed, generation)
        overridden += len(gathered.keys() & came.keys())
        gathered |= came
    return Gathered(gathered, lora, merged, overridden)


def folders_of(paths: Sequence[Path]) -> list[Path]:
    """Where a checkpoint's own tokenizer may lie."""
    return list(dict.fromkeys(path if path.is_dir() else path.parent for path in paths))


def _canonical(listed: Mapping[str, Stored], generation: Generation) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for key, stored in listed.items():
        name = canonical(key, generation)
        if name in found:
            raise CheckpointError(
                f"{stored.origin}: {key!r} and {found[name].name!r} are the same tensor twice"
            )
        found[name] = stored
    return found


def _v0_lora(found: Mapping[str, Stored], config: SystemConfig, path: Path) -> LoraSettings | None:
    """None only for the first upload's names, which are of a model without LoRA."""
    wrapped = any(".base_model." in stored.name for stored in found.values())
    if not wrapped and not any(".lora_" in key for key in found):
        return None
    if config.language.lora is None:
        raise ConfigError(f"{path}: has LoRA: expected its settings at language.lora")
    return config.language.lora


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """v1.5's files in the order of its stages; a merged folder last."""
    stages: list[list[Path]] = [[] for _ in range(len(STAGE_FILES) + 1)]
    for path in paths:
        if not path.exists():
            raise CheckpointError(f"{path}: expected a checkpoint; found no such file or folder")
        own = [path] if path.is_file() else [f for f in sorted(path.iterdir()) if _stage(f) >= 0]
        if path.is_file() and _stage(path) < 0:
            raise UsageError(f"{path}: expected a file named {', '.join(STAGE_FILES)}, or a folder")
        if path.is_dir() and not own:
            if not weight_files(path):
                raise CheckpointError(
                    f"{path}: expected {', '.join(STAGE_FILES)} or a merged language model"
                )
            own = [path]
        for one in own:
            stages[_stage(one)].append(one)  # -1, the last, for a merged folder
    for stage in stages:
        if len(stage) > 1:
            raise UsageError(f"expected one of each stage, got {stage[0]} and {stage[1]}")
    return [path for stage in stages for path in stage]


def _stage(path: Path) -> int:
    known = path.suffix in _ENDINGS and path.stem in STAGE_FILES
    return STAGE_FILES.index(path.stem) if known else -1
